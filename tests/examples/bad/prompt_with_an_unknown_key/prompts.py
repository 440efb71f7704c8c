"""A prompt template in XTuner's own keys."""

mine = {"summary": "mine", "instruction": "{input}", "SUFFIX": "</s>"}
