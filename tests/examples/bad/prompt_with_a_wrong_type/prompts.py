"""A prompt template whose stop words are one text."""

mine = {"summary": "mine", "instruction": "{input}", "stop_words": "</s>"}
