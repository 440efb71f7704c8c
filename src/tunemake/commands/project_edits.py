"""project.toml with a plugin's file or a dataset put in: all else of its text, comments too, stays as it is."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

from tunemake.digests import replace_text
from tunemake.faults import Fault, ProjectError
from tunemake.project import FILE
from tunemake.toml_places import parts

_MARK = "\ufeff"  # some editors begin a file with it


def put_in(root: Path, plugin: str, dataset: tuple[str, str] | None = None) -> None:
    """Add a file to `plugins`, and a dataset's table, to a project.toml that is right.

    dataset: its name, and the text of its table. Raises ProjectError, with the file as it was, where the text has a
    form that this cannot edit; it then says what to add by hand.
    """
    path = (root / FILE).resolve()
    text = path.read_bytes().decode()
    try:
        edited = with_plugin(text.removeprefix(_MARK), plugin)
        if dataset:
            edited = with_dataset(edited, dataset[1])
        _check(text.removeprefix(_MARK), edited, plugin, dataset)
    except (ValueError, KeyError):
        step = f'add "{plugin}" to plugins above the first table' + (
            f", and [datasets.{dataset[0]}]" if dataset else ""
        )
        raise ProjectError(Fault(FILE, "written in a form that only you can edit", next_step=step)) from None
    try:
        replace_text(path, (_MARK if text.startswith(_MARK) else "") + edited)
    except OSError as error:
        raise ProjectError(Fault(FILE, f"cannot be written: {error.strerror}")) from error


def _check(text: str, edited: str, plugin: str, dataset: tuple[str, str] | None) -> None:
    """Raise ValueError where the edited text says anything but the old one and what was to be added."""
    expected: dict[str, Any] = copy.deepcopy(tomllib.loads(text))
    expected["plugins"] = [*expected.get("plugins", []), plugin]
    if dataset:
        name, table = dataset
        expected["datasets"][name] = tomllib.loads(table)["datasets"][name]
    if tomllib.loads(edited) != expected:
        raise ValueError(edited)


def with_plugin(text: str, plugin: str) -> str:
    """Put a file's name at the end of the list `plugins`, which is made above the first table where there is none."""
    for node in parts(text):
        if node.type == "pair" and tomllib.loads(f"{_text(node.children[0])} = 0") == {"plugins": 0}:
            return _with_item(text, node.children[2], f'"{plugin}"')
    lines = _lines(text)
    row = next(iter(_headers(text)), (len(lines), ""))[0]
    above = row
    while above and lines[above - 1].startswith("#") and not lines[above - 1].startswith("#:"):
        above -= 1
    row = above or row  # a comment at the file's beginning is the file's
    return _with_lines(text, row, [f'plugins = ["{plugin}"]', ""])


def _with_item(text: str, array: Any, item: str) -> str:
    """Put an item behind the last of a list, in a line of its own where the list has lines."""
    items = [node for node in array.children if node.is_named and node.type != "comment"]
    lines_of_its_own = array.start_point[0] != array.end_point[0]
    end = _line_end(text)
    if not items:
        return _at(text, {array.children[0].end_byte: f"{end}    {item}," if lines_of_its_own else item})
    last = items[-1]
    if last.end_point[0] == array.end_point[0]:
        return _at(text, {last.end_byte: f", {item}"})
    behind = array.children[array.children.index(last) + 1 :]
    comma = next((node for node in behind if node.type == ","), None)
    after = comma or last
    comments = [node for node in behind if node.type == "comment" and node.start_point[0] == after.end_point[0]]
    place = comments[-1].end_byte if comments else after.end_byte
    first = text.encode().splitlines()[last.start_point[0]][: last.start_point[1]].decode()
    line = f"{end}{first if first.isspace() else '    '}{item},"
    if comma or place != last.end_byte:
        return _at(text, {place: line} if comma else {place: line, last.end_byte: ","})
    return _at(text, {place: f",{line}"})


def with_dataset(text: str, table: str) -> str:
    """Put a dataset's table behind those of the other datasets, or at the end."""
    lines = _lines(text)
    headers = _headers(text)
    numbers = [number for number, (_, name) in enumerate(headers) if name == "datasets"]
    following = headers[numbers[-1] + 1 :] if numbers else []
    row = following[0][0] if following else len(lines)
    while following and lines[row - 1].startswith("#"):
        row -= 1  # what is said right above a table is said of it
    while row and not lines[row - 1].strip():
        row -= 1
    return _with_lines(text, row, ["", *table.splitlines()])


def _headers(text: str) -> list[tuple[int, str]]:
    """Give the row of each table's head, from 0, and the first part of its name."""
    tables = [node for node in parts(text) if node.type in {"table", "table_array_element"}]
    keys = [(node.start_point[0], next(part for part in node.children if part.type.endswith("key"))) for node in tables]
    return [(row, next(iter(tomllib.loads(f"[{_text(key)}]")))) for row, key in keys]


def _with_lines(text: str, row: int, added: list[str]) -> str:
    lines = _lines(text)
    end = _line_end(text)
    if row and lines[row - 1] == lines[row - 1].rstrip("\r\n"):
        lines[row - 1] += end
    return "".join([*lines[:row], *(line + end for line in added), *lines[row:]])


def _at(text: str, added: dict[int, str]) -> str:
    data = text.encode()
    for place in sorted(added, reverse=True):
        data = data[:place] + added[place].encode() + data[place:]
    return data.decode()


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)  # splitlines would also split where TOML does not


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _text(node: Any) -> str:
    return str(node.text.decode())
