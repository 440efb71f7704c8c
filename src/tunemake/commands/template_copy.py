"""A training config's template as one file: the blocks of what it extends, with its own in their place."""

from __future__ import annotations

import re
from pathlib import Path

from tunemake import shelves
from tunemake.faults import Fault, InputError

_TAG = re.compile(r"\{%-?\s*(block|endblock)\b\s*(\w*)[^%]*%\}")
_EXTENDS = re.compile(r"\{%-?\s*extends\s+[\"']([^\"']+)[\"']\s*-?%\}")
_SUPER = re.compile(r"\{\{-?\s*super\(\)\s*-?\}\}")
_COMMENT = re.compile(r"\{#.*?#\}\n?", re.DOTALL)


def flat(name: str, project: Path | None) -> str:
    """Give the text of a template, such as xtuner/lora.py.jinja, that extends nothing and renders the same.

    Raises InputError where it has more beside its blocks than what it extends.
    """
    text = _COMMENT.sub("", shelves.find("templates", name, project).read_text("utf-8"))
    extends = _EXTENDS.search(text)
    if extends is None:
        return text
    parent = flat(extends[1], project)
    blocks = _blocks(text)
    if "{%" in _outside(text[extends.end() :]):
        step = "copy its file by hand"
        raise InputError(Fault(f"templates/{name}", "has more than blocks", next_step=step))
    for block, (start, end) in blocks.items():
        if block not in _blocks(parent):
            continue  # nothing of what it extends shows it: Jinja leaves it out too
        first, last = _blocks(parent)[block]
        # The line end behind the tag is not the block's own.
        inner = parent[first:last].removeprefix("\n")
        parent = parent[:first] + inner.join(_SUPER.split(text[start:end])) + parent[last:]
    return parent


def _blocks(text: str) -> dict[str, tuple[int, int]]:
    """Give where the content of each block begins and ends."""
    found: dict[str, tuple[int, int]] = {}
    open_ones: list[tuple[str, int]] = []
    for tag in _TAG.finditer(text):
        if tag[1] == "block":
            open_ones.append((tag[2], tag.end()))
        elif open_ones:
            name, start = open_ones.pop()
            found[name] = (start, tag.start())
    return found


def _outside(text: str) -> str:
    """Give what stands beside all blocks."""
    depth, last, kept = 0, 0, ""
    for tag in _TAG.finditer(text):
        if depth == 0:
            kept += text[last : tag.start()]
        depth += 1 if tag[1] == "block" else -1
        last = tag.end()
    return kept + text[last:]
