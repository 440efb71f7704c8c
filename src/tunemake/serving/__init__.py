"""What serves a built model over HTTP in OpenAI's form; imported by the command alone."""
