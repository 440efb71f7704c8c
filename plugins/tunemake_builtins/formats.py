"""The formats that a row's conversation comes in, chosen by a parameter: for files and hubs that hold any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunemake.contracts import Context, Sample
from tunemake_builtins.alpaca import COLUMNS as ALPACA_COLUMNS
from tunemake_builtins.alpaca import AlpacaReader
from tunemake_builtins.conversations import cell_text
from tunemake_builtins.csv_qa import ANSWER, QUESTION, QuestionAnswer
from tunemake_builtins.messages import OpenAIReader
from tunemake_builtins.rows import SYSTEM, column
from tunemake_builtins.sharegpt import ShareGPTReader

COLUMNS: Mapping[str, Any] = {
    "format": {
        "enum": ["messages", "qa", "alpaca", "sharegpt"], "default": "messages",
        "description": "what a row holds: OpenAI's messages, a question and an answer, or Alpaca's or ShareGPT's form",
    },
    "messages": column("of format messages: the column that holds them", "messages"),
    "question": {**QUESTION, "description": "of format qa: " + QUESTION["description"]},
    "answer": {**ANSWER, "description": "of format qa: " + ANSWER["description"]},
    "system": {**SYSTEM, "description": "of format qa: " + SYSTEM["description"]},
    "alpaca": {**ALPACA_COLUMNS, "description": "of format alpaca: " + ALPACA_COLUMNS["description"]},
    "conversations": column("of format sharegpt: the column that holds the turns", "conversations"),
}  # fmt: skip
_OF = {"messages": ["messages"], "qa": ["question", "answer", "system"], "alpaca": ["alpaca"],
       "sharegpt": ["conversations"]}  # fmt: skip


def _of_another(name: str) -> dict[str, Any]:
    return {"not": {}, "x-message": f'of format {name} alone; expected format = "{name}" beside it'}


# What belongs to one format would be ignored beside another.
ONE_FORMAT: Mapping[str, Any] = {
    "allOf": [
        {
            "if": {
                "required": [] if name == "messages" else ["format"],
                "properties": {"format": {"const": name}},
            },
            "then": {"properties": {key: _of_another(of) for of, keys in _OF.items() if of != name for key in keys}},
        }
        for name in _OF
    ]
}


class Format:
    """Makes samples of rows, as `format` in the parameters says. columns: those that must be there; None: any."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.columns: list[str] | None = None
        self._openai: OpenAIReader | None = None
        self._made_of: Callable[[Any], Sample]
        name = parameters.get("format", "messages")
        if name == "messages":
            self._openai = OpenAIReader(parameters.get("messages", "messages"))
            self._made_of, self.columns = self._openai.sample, [self._openai.key]
        elif name == "qa":
            questions = QuestionAnswer(parameters)
            self._made_of, self.columns = questions.sample, questions.columns
        elif name == "alpaca":
            self._made_of = AlpacaReader(parameters.get("alpaca", {})).sample
        else:
            self._made_of = ShareGPTReader({"conversations": parameters.get("conversations", "conversations")}).sample

    def sample(self, row: Any) -> Sample:
        """Give a row's conversation, its numbers and dates as text; raises BadRow."""
        if isinstance(row, dict):
            row = {name: cell_text(value) for name, value in row.items()}
        return self._made_of(row)

    def tell(self, context: Context) -> None:
        """Tell what was ignored."""
        if self._openai is not None:
            self._openai.tell(context)
