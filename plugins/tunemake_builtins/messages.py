"""Conversations in OpenAI's format: a JSON list, or JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, Sample
from tunemake_builtins.conversations import BadRow, Turn, field, kind, sample_of, text_of
from tunemake_builtins.rows import CHOICE, FILES, column, files_of, read, samples_from, schema

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = {"tool", "function"}
_CALLS = ("tool_calls", "function_call")
_MOST_KEYS = 1000  # of a file whose keys are data


class Messages:
    """A dataset generator: conversations as they are."""

    summary = "conversations of files in OpenAI's format (messages), a JSON list or JSON lines"
    version = "1"
    parameters: Mapping[str, Any] = schema(
        ["files"], files=FILES, key=column("the key of a row that holds its messages", "messages"), **CHOICE
    )

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files."""
        return files_of(parameters["files"])

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations; what is left out of them is counted and told at the end."""
        reader = OpenAIReader(parameters.get("key", "messages"))
        yield from samples_from(read(parameters, context, [reader.key]), reader.sample, parameters, context)
        reader.tell(context)


class OpenAIReader:
    """Makes samples of rows in OpenAI's format, and counts what it ignores.

    Turns of tools, the assistant's calls of them and keys that are not role and content are ignored.
    """

    def __init__(self, key: str = "messages") -> None:
        self.key = key
        self._tool_turns = self._with_tools = 0
        self._keys: Counter[str] = Counter()

    def sample(self, row: Any) -> Sample:
        """Give a row's conversation; raises BadRow."""
        messages = field(row, self.key)
        if isinstance(messages, str):
            messages = _parsed(messages)
        if not isinstance(messages, list):
            raise BadRow(f"{self.key}: {kind(messages)} where a list is expected")
        turns: list[Turn] = []
        ignored = 0
        for number, message in enumerate(messages, 1):
            turn = _turn(message, number)
            if turn is None:
                ignored += 1
            else:
                turns.append(turn)
        sample = sample_of(turns, "without its tool turns: " if ignored else "")
        self._count(row, messages, ignored)
        return sample

    def tell(self, context: Context) -> None:
        """Tell what was ignored."""
        if self._tool_turns:
            context.say(f"messages: {self._tool_turns} tool turns ignored in {self._with_tools} conversations")
        if self._keys:
            shown = ", ".join(f"{name} ({number})" for name, number in self._keys.most_common(8))
            context.say(f"messages: ignored keys: {shown}" + (", …" if len(self._keys) > 8 else ""))  # noqa: PLR2004

    def _count(self, row: dict[str, Any], messages: list[dict[str, Any]], ignored: int) -> None:
        self._tool_turns += ignored
        self._with_tools += bool(ignored)
        if len(row) > 1:
            self._ignore(name for name in row if name != self.key and row[name] is not None)
        for message in messages:
            if len(message) > 2:  # noqa: PLR2004 - role and content
                self._ignore(
                    f"messages[].{name}"
                    for name, value in message.items()
                    if name not in {"role", "content", *_CALLS} and value is not None
                )

    def _ignore(self, names: Iterable[str]) -> None:
        for name in names:
            self._keys[name if name in self._keys or len(self._keys) < _MOST_KEYS else "others"] += 1


def _parsed(text: str) -> Any:
    """Read messages that a table keeps as JSON."""
    from orjson import JSONDecodeError, loads

    try:
        return loads(text)
    except JSONDecodeError as error:
        raise BadRow(f"messages: text that is not JSON: {error}") from None


def _turn(message: Any, number: int) -> Turn | None:
    """Give the turn of a message, or None for a tool's."""
    name = f"turn {number}"
    if not isinstance(message, dict):
        raise BadRow(f"{name}: {kind(message)} where an object is expected")
    role = message.get("role")
    if isinstance(role, str) and role in _TOOL_ROLES:
        return None
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        got = f'"{role[:40]}"' if isinstance(role, str) else kind(role)
        raise BadRow(f"{name}: role {got}; expected system, user or assistant")
    if any(message.get(call) for call in _CALLS):
        return None
    if "content" not in message:
        raise BadRow(f"{name} ({known}): no content")
    return known, _joined(message["content"], f"{name} ({known})")  # type: ignore[return-value]


def _joined(content: Any, name: str) -> Any:
    """Join a list of text parts; raises BadRow for a part of another kind."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        what = part.get("type") if isinstance(part, dict) else None
        if what != "text":
            got = f'of type "{what}"' if isinstance(what, str) else f"that is {kind(part)}"
            raise BadRow(f"{name}: a part {got[:60]}; expected text alone")
        texts.append(text_of(part.get("text"), name))
    return "".join(texts)
