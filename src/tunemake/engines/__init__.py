"""What trains: one module an engine, and what runs in its process."""
