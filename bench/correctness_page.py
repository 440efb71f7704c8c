"""The page docs/correctness.md, written from the table of faults."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import measure

_PAGE = Path(__file__).with_name("correctness.md.in")


def write(table: Mapping[str, Mapping[str, str]], versions: Mapping[str, str | None]) -> None:
    """Write the page. table: by fault and tool, the cell. versions: of each tool, None where it is absent."""
    names = list(versions)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    told = ", ".join(f"{name} {version or 'absent'}" for name, version in versions.items())
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}"
    lines = [f"{today}; {machine}; {told}.", "", f"| fault | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for fault, cells in table.items():
        lines.append(f"| {fault} | {' | '.join(_shown(cells[name]) for name in names)} |")
    lines += ["", "How often each word stands there:", "", *_sums(table, names)]
    page = _PAGE.read_text("utf-8").replace("@TABLE@", "\n".join(lines))
    (measure.ROOT / "docs" / "correctness.md").write_text(page, "utf-8")


def _shown(cell: str) -> str:
    for word in ("WRONG", "unnoticed", "stuck"):
        cell = cell.replace(word, f"**{word}**")
    return cell


def _sums(table: Mapping[str, Mapping[str, str]], names: list[str]) -> list[str]:
    words = ("ok", "WRONG", "unnoticed", "stuck", "needless")
    counts = {name: Counter(_word(cells[name]) for cells in table.values()) for name in names}
    head = [f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    return head + [f"| {word} | {' | '.join(str(counts[name][word]) for name in names)} |" for word in words]


def _word(cell: str) -> str:
    return cell.partition(" ")[0].rstrip(":,")
