"""A prompt template that does not say where the question goes."""

mine = {"summary": "mine", "instruction": "Question: {question}\n"}
