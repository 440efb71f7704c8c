"""What was built, told to people: the report's page, the model card, and what they show."""
