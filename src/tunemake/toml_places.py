"""Where in a TOML file a key stands: line and column, for messages; used only when something is wrong.

tomllib keeps no positions. tree-sitter's TOML grammar does, so the places come from a second, tolerant parse.
"""

from __future__ import annotations

import tomllib
from typing import Any

Steps = tuple[str | int, ...]
Place = tuple[int, int]


def places(text: str) -> dict[Steps, Place]:
    """Give (line, column), counted from 1, of every key, table header and list item of a TOML text."""
    found: dict[Steps, Place] = {}
    counts: dict[Steps, int] = {}
    lines = text.encode().splitlines()
    for node in parts(text):
        prefix: Steps = ()
        if node.type in {"table", "table_array_element"}:
            prefix = _header(node, found, counts, lines)
        for pair in [node] if node.type == "pair" else node.children:
            if pair.type == "pair":
                _pair(pair, prefix, found, lines)
    return found


def parts(text: str) -> list[Any]:
    """Give the nodes of a TOML text's top: pairs, comments, and tables with their pairs inside."""
    import tree_sitter_toml
    from tree_sitter import Language, Parser

    children: list[Any] = Parser(Language(tree_sitter_toml.language())).parse(text.encode()).root_node.children
    return children


def _header(node: Any, found: dict[Steps, Place], counts: dict[Steps, int], lines: list[bytes]) -> Steps:
    key = next(child for child in node.children if child.type.endswith("key"))
    prefix: Steps = ()
    for name in _names(key):
        prefix = (*prefix, name)
        if prefix in counts and prefix != tuple(_names(key)):
            prefix = (*prefix, counts[prefix] - 1)  # a table inside the newest element of a list of tables
    found.setdefault(prefix, _place(key, lines))
    if node.type == "table_array_element":
        index = counts.get(prefix, 0)
        counts[prefix] = index + 1
        prefix = (*prefix, index)
        found[prefix] = _place(key, lines)
    return prefix


def _pair(pair: Any, prefix: Steps, found: dict[Steps, Place], lines: list[bytes]) -> None:
    key, value = pair.children[0], pair.children[2]  # a comment may follow
    path = prefix
    for name in _names(key):
        path = (*path, name)
        found.setdefault(path, _place(key, lines))
    _value(value, path, found, lines)


def _value(value: Any, path: Steps, found: dict[Steps, Place], lines: list[bytes]) -> None:
    if value.type == "inline_table":
        for child in value.children:
            if child.type == "pair":
                _pair(child, path, found, lines)
    elif value.type == "array":
        items = [child for child in value.children if child.is_named and child.type != "comment"]
        for index, item in enumerate(items):
            found[(*path, index)] = _place(item, lines)
            _value(item, (*path, index), found, lines)


def _names(key: Any) -> list[str]:
    if key.type == "dotted_key":
        return [name for child in key.children if child.is_named for name in _names(child)]
    text = key.text.decode()
    if key.type == "quoted_key":
        return list(tomllib.loads(f"{text} = 0"))
    return [text]


def _place(node: Any, lines: list[bytes]) -> Place:
    row, column = node.start_point
    return row + 1, len(lines[row][:column].decode()) + 1  # columns in characters, as editors count
