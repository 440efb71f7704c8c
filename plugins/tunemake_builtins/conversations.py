"""Turns to a sample, and the reasons why some turns are none."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from tunemake.contracts import GeneratorError, Message, Sample

Turn = tuple[Literal["system", "user", "assistant"], Any]
_KINDS = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
_OF_TURNS = {"role", "from", "value", "content"}  # keys of a turn, which is no row
_MALFORMED = range(0xDC80, 0xDD00)  # what "surrogateescape" makes of bytes that are not UTF-8


class BadRow(Exception):  # noqa: N818 - the text is a reason, not an error's message
    """A row that gives no sample; the text is the reason."""


def kind(value: Any) -> str:
    """Name the kind of a JSON value, for a reason."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def text_of(value: Any, name: str) -> str:
    """Give a value that is text and can be written as UTF-8; raises BadRow with its name otherwise."""
    if not isinstance(value, str):
        raise BadRow(f"{name}: {kind(value)} where text is expected")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            malformed = ord(value[error.start]) in _MALFORMED
            what = "malformed UTF-8" if malformed else "a lone surrogate (half of a character)"
            raise BadRow(f"{name}: {what} at character {error.start + 1}") from None
    return value


def filled(value: Any, name: str) -> str:
    """Give a value that is text of more than white space; raises BadRow with its name otherwise."""
    text = text_of(value, name)
    if not text or text.isspace():
        raise BadRow(f"{name}: empty")
    return text


def is_empty(value: Any) -> bool:
    """Say whether a value is left out: null, or text of nothing but white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def field(row: Any, name: str) -> Any:
    """Give the value of a row under a name; raises BadRow where the row has none."""
    if not isinstance(row, dict):
        raise BadRow(f"{kind(row)} where an object is expected")
    try:
        return row[name]
    except KeyError:
        there = ", ".join(map(str, list(row)[:12])) or "nothing"
        raise BadRow(f'no "{name}"; the row has {there}{lying_under(row, name)}') from None


def lying_under(value: Mapping[Any, Any], wanted: str | None = None) -> str:
    """Say under which key of an object the list of rows seems to lie, for the end of a message; or "".

    wanted: what a row has; None where it is not known.
    """
    for name, told in value.items():
        first = told[0] if isinstance(told, list) and told else None
        if isinstance(first, dict) and (wanted in first if wanted else not first.keys() & _OF_TURNS):
            return f'; the list lies under "{name}": make it the whole file'
    return ""


def sample_of(turns: Iterable[Turn], before: str = "") -> Sample:
    """Give a conversation; an empty system message in front is no turn.

    before: what a reason opens with. Raises BadRow where the turns are not user and assistant in alternation, ended
    by the assistant, or where one of them is empty.
    """
    messages: list[Message] = []
    for number, (role, content) in enumerate(turns, 1):
        if role == "system" and not messages and is_empty(content):
            continue
        messages.append({"role": role, "content": filled(content, f"turn {number} ({role})")})
    roles = [message["role"] for message in messages]
    asked = roles[1:] if roles[:1] == ["system"] else roles
    if not asked:
        raise BadRow(f"{before}no turns")
    for number, role in enumerate(asked):
        expected = ("user", "assistant")[number % 2]
        if role != expected:
            at = number + 1 + len(roles) - len(asked)
            raise BadRow(f"{before}turn {at} is of {role}, expected {expected}: {_shown(roles)}")
    if len(asked) % 2:
        raise BadRow(f"{before}it ends with a turn of user, expected assistant: {_shown(roles)}")
    return {"messages": messages}


def pair(question: str, answer: str, system: str | None = None) -> Sample:
    """Give a conversation of one question and one answer that are known to be text."""
    messages: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": [{"role": "system", "content": system}, *messages] if system else messages}


def cell_text(value: Any) -> Any:
    """Give the text of a cell that holds a number, a truth value or a date; None for "not a number"; else the value."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)  # noqa: PLR2004
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    if isinstance(value, int | decimal.Decimal | dt.date | dt.time | dt.timedelta):
        return str(value)
    return value


def system_prompt(parameters: Any) -> str | None:
    """Give the constant system prompt of a generator's parameters; raises GeneratorError where it is empty."""
    system = parameters.get("system")
    if system is not None and not system.strip():
        raise GeneratorError("system: empty; leave it out for no system message")
    return system or None


def _shown(roles: Sequence[str]) -> str:
    return ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "")  # noqa: PLR2004
