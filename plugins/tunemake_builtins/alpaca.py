"""Instructions in Alpaca's format: instruction, input, output, and maybe a system message and turns before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, Sample
from tunemake_builtins.conversations import BadRow, Turn, field, is_empty, kind, sample_of, text_of
from tunemake_builtins.rows import CHOICE, FILES, TABLE, files_of, read, samples_from, schema

_NAMES = {
    "instruction": "what is asked",
    "input": "what it is asked of; a row may lack it",
    "output": "the answer",
    "system": "a system message; a row may lack it",
    "history": "turns before, pairs of a question and its answer; a row may lack it",
}
COLUMNS: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "default": {},
    "description": 'names that differ from Alpaca\'s, such as output = "response"',
    "properties": {
        name: {"type": "string", "minLength": 1, "default": name, "description": f"name of the column of {what}"}
        for name, what in _NAMES.items()
    },
}


class Alpaca:
    """A dataset generator: instructions in Alpaca's format."""

    summary = "instructions in Alpaca's format (instruction, input, output; system, history), JSON or a table"
    version = "1"
    parameters: Mapping[str, Any] = schema(["files"], files=FILES, columns=COLUMNS, **TABLE, **CHOICE)

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files."""
        return files_of(parameters["files"])

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations."""
        reader = AlpacaReader(parameters.get("columns", {}))
        return samples_from(read(parameters, context), reader.sample, parameters, context)


class AlpacaReader:
    """Makes samples of rows in Alpaca's format."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._names = {name: columns.get(name, name) for name in _NAMES}

    def sample(self, row: Any) -> Sample:
        """Give a row's conversation; the input stands on a line of its own below the instruction. Raises BadRow."""
        asked = [self._text("instruction", field(row, self._names["instruction"]))]
        if not is_empty(below := row.get(self._names["input"])):
            asked.append(self._text("input", below))
        turns: list[Turn] = [("system", row.get(self._names["system"]))]
        for question, answer in self._history(row):
            turns += [("user", question), ("assistant", answer)]
        turns += [("user", "\n".join(text for text in asked if text)), ("assistant", field(row, self._names["output"]))]
        return sample_of(turns)

    def _text(self, name: str, value: Any) -> str:
        return "" if is_empty(value) else text_of(value, self._names[name])

    def _history(self, row: Any) -> Iterator[tuple[Any, Any]]:
        name = self._names["history"]
        told = row.get(name)
        if is_empty(told):
            return
        if not isinstance(told, list):
            raise BadRow(f"{name}: {kind(told)} where a list of pairs is expected")
        for number, turn in enumerate(told, 1):
            if not isinstance(turn, list) or len(turn) != 2:  # noqa: PLR2004
                raise BadRow(f"{name}: entry {number} is no pair of a question and its answer")
            yield turn[0], turn[1]
