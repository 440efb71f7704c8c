"""Conversations in ShareGPT's format: a list of turns, each with who speaks and what is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, Sample
from tunemake_builtins.conversations import BadRow, Turn, field, kind, sample_of
from tunemake_builtins.rows import CHOICE, FILES, column, files_of, read, samples_from, schema

_ROLES: Mapping[str, Any] = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "model": "assistant",
    "system": "system",
}  # fmt: skip
_TOOLS = {"tool", "function", "function_call", "observation"}
KEYS: Mapping[str, Any] = {
    "conversations": column("the key of a row that holds its turns", "conversations"),
    "from": column("the key of a turn that says who speaks", "from"),
    "value": column("the key of a turn that holds what is said", "value"),
    "system": column("the key of a row that may hold a system message", "system"),
}


class ShareGPT:
    """A dataset generator: conversations in ShareGPT's format."""

    summary = "conversations in ShareGPT's format (conversations of from and value), JSON or Parquet"
    version = "1"
    parameters: Mapping[str, Any] = schema(["files"], files=FILES, **KEYS, **CHOICE)

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files."""
        return files_of(parameters["files"])

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations."""
        return samples_from(read(parameters, context), ShareGPTReader(parameters).sample, parameters, context)


class ShareGPTReader:
    """Makes samples of rows in ShareGPT's format."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._key, self._from, self._value, self._system = (
            parameters.get(name, name) for name in ("conversations", "from", "value", "system")
        )

    def sample(self, row: Any) -> Sample:
        """Give a row's conversation; raises BadRow."""
        told = field(row, self._key)
        if not isinstance(told, list):
            raise BadRow(f"{self._key}: {kind(told)} where a list is expected")
        turns = [self._turn(turn, number) for number, turn in enumerate(told, 1)]
        if system := row.get(self._system):
            turns.insert(0, ("system", system))
        return sample_of(turns)

    def _turn(self, turn: Any, number: int) -> Turn:
        name = f"turn {number}"
        if not isinstance(turn, dict):
            raise BadRow(f"{name}: {kind(turn)} where an object is expected")
        for key in (self._from, self._value):
            if key not in turn:
                raise BadRow(f'{name}: no "{key}"')
        speaker = turn[self._from]
        role = _ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
        if role is None:
            got = f'"{speaker[:40]}"' if isinstance(speaker, str) else kind(speaker)
            what = ", a turn of a tool" if isinstance(speaker, str) and speaker in _TOOLS else ""
            raise BadRow(f"{name}: from {got}{what}; expected human, gpt or system")
        return role, turn[self._value]
