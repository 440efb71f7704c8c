"""The rows of JSON files: a list, read element by element, or JSON lines."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.conversations import lying_under
from tunemake_builtins.rows import Row

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
# A value that the end of the buffer cuts fails at most this far before it; an open string is told otherwise.
_CUT = 16
_FOREIGN = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def json_rows(path: Path, told: str, context: Context) -> Iterator[Row]:
    """Give the rows of a JSON list or of JSON lines, whichever the file is; a line that is no JSON is a bad row.

    told: the path for messages. Raises GeneratorError where reading cannot go on.
    """
    with path.open("rb") as file:
        listed = _is_list(file, told, lines=path.suffix.lower() in {".jsonl", ".ndjson"})
        yield from _elements(file, told) if listed else _lines(file, told, context)


def _is_list(file: BinaryIO, told: str, *, lines: bool) -> bool:
    """Say whether a file is one JSON list, and leave it at its start, behind a byte order mark.

    lines: whether its name promises JSON lines; then a first line that is a list of its own is only a bad row.
    """
    mark = file.read(len(codecs.BOM_UTF8))
    if foreign := _FOREIGN.get(mark[:2]):
        raise GeneratorError(f"{told}: {foreign}, by its first bytes; expected UTF-8: save it as that")
    start = len(mark) if mark == codecs.BOM_UTF8 else 0
    file.seek(start)
    first = b""
    while part := file.readline(_CHUNK):
        if first := part.lstrip():
            break
    if not first:
        raise GeneratorError(f"{told}: empty; expected a list of objects, or one on each line")
    if first.startswith(b"{") and not _is_json(first):
        file.seek(start)
        _refuse_objects_of_lines(file, told)
    file.seek(start)
    return first.startswith(b"[") and not (lines and _is_json(first))


def _refuse_objects_of_lines(file: BinaryIO, told: str) -> None:
    """Raise GeneratorError where a file's first object takes several lines: one by one, they would be no JSON."""
    buffer = _Buffer(file, told)
    buffer.peek()
    line = buffer.line()
    try:
        value = _element(buffer)
    except GeneratorError:
        return  # a broken line, which reading it will tell
    if buffer.line() == line:
        return
    many = "objects of several lines each, expected a list of them, or each on one line"
    raise GeneratorError(
        f"{told}: {many if buffer.peek() else 'one object, expected a list of them' + lying_under(value)}"
    )


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _lines(file: BinaryIO, told: str, context: Context) -> Iterator[Row]:
    from orjson import JSONDecodeError, loads

    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        place = f"{told}:{number}"
        try:
            value = loads(line)
        except JSONDecodeError as error:
            context.bad(place, _not_json(line, error.msg, error.pos), line.decode(errors="backslashreplace").rstrip())
        else:
            yield Row(place, value)


def _not_json(line: bytes, what: str, at: int) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"malformed UTF-8 at byte {error.start + 1} of the line"
    return f"not JSON: {what} at character {at + 1} of the line"


class _Buffer:
    """The part of a JSON text that is being read; `at` is where reading stands in it."""

    def __init__(self, file: BinaryIO, told: str) -> None:
        self._file, self._told = file, told
        # What is not UTF-8 becomes lone surrogates, which the check of each text tells apart.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at, self.ended = "", 0, False
        self._read, self._line, self._counted = _CHUNK, 1, 0
        self._left = 0  # characters of the present line that are no longer in the buffer

    def more(self) -> None:
        """Read on: each time without an element between as much again, so that a long one is scanned seldom."""
        self.line()
        end = self.text.rfind("\n", 0, self.at)
        self._left = self.at - end - 1 if end >= 0 else self._left + self.at
        data = self._file.read(self._read)
        self.ended = not data
        self.text = self.text[self.at :] + self._decoder.decode(data, final=self.ended)
        self.at = self._counted = 0
        self._read = max(_CHUNK, len(self.text))

    def peek(self) -> str:
        """Give the next character that is not white space, or "" at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in _SPACE:
                    return self.text[self.at]
                self.at += 1
            if self.ended:
                return ""
            self.more()

    def line(self) -> int:
        """Give the number of the line where reading stands."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def fault(self, what: str, at: int | None = None) -> GeneratorError:
        """Give the error that ends reading, at the place where it stands or at another of the buffer."""
        at = self.at if at is None else at
        line = self.line() + self.text.count("\n", self.at, at)
        end = self.text.rfind("\n", 0, at)
        column = at - end if end >= 0 else at + 1 + self._left
        return GeneratorError(f"{self._told}:{line}: not JSON at column {column}: {what}; mend it there")


_DECODER = json.JSONDecoder()


def _element(buffer: _Buffer) -> Any:
    """Give the element where reading stands, and go behind it."""
    while True:
        try:
            value, end = _DECODER.raw_decode(buffer.text, buffer.at)
        except json.JSONDecodeError as error:
            cut = error.pos > len(buffer.text) - _CUT or error.msg.startswith("Unterminated string")
            if buffer.ended or not cut:
                raise buffer.fault(error.msg, error.pos) from None
        except RecursionError:
            raise buffer.fault("nested too deeply") from None
        except ValueError as error:  # a whole number of thousands of digits
            raise buffer.fault(str(error)) from None
        else:
            if end < len(buffer.text) or buffer.ended:
                buffer.at = end
                return value
        buffer.more()


def _elements(file: BinaryIO, told: str) -> Iterator[Row]:
    buffer = _Buffer(file, told)
    buffer.peek()
    buffer.at += 1  # the opening bracket
    if buffer.peek() == "]":
        buffer.at += 1
    else:
        for number in count(1):
            buffer.peek()
            line = buffer.line()
            yield Row(f"{told}:{line}: row {number}", _element(buffer))
            mark = buffer.peek()
            if mark not in {",", "]"}:
                raise buffer.fault('the end of the file before the list\'s "]"' if not mark else "expected , or ]")
            buffer.at += 1
            if mark == "]":
                break
    if buffer.peek():
        raise buffer.fault("more after the end of the list")
