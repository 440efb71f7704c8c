"""A prompt template without a summary."""

mine = {"instruction": "{input}"}
