"""Files of JSON lines as they grow: whole lines alone are read, and a text may hold any line end that JSON leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file's lines; [] where there is none. A last line that is cut short, as by a kill, is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text("utf-8").rpartition("\n")
    # splitlines would also cut at U+2028 and others, which JSON leaves as they are inside a text.
    return [json.loads(line) for line in whole.split("\n") if line]


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line."""
    append_all(path, [line])


def append_all(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add lines, all by one write."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def keep_until(path: Path, iteration: int) -> None:
    """Drop the lines of later iterations, and one that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            break  # the line that a kill cut short
        if entry["iteration"] <= iteration:
            kept.append(line + "\n")
    draft = path.with_suffix(".draft")
    draft.write_text("".join(kept), "utf-8")
    draft.replace(path)
