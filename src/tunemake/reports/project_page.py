"""The page of a project: its variants side by side, and the way to each one's own page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunemake.comparison import compared
from tunemake.json_lines import read_json_lines
from tunemake.reports.pages import html
from tunemake.reports.plots import COLOURS, Curve, plot, smoothed, thinned

_SPAN = 20  # points that the moving average of the loss looks back over


def comparison(root: Path, project: str, variants: Sequence[str], folder: Path) -> str:
    """Render the page from what is built now. variants: their names. folder: where the page will lie, for its links."""
    rows = compared(root, variants)
    pages = {name: root / "build" / name / "report" / "report.html" for name in variants}
    links = {name: Path(os.path.relpath(page, folder)).as_posix() for name, page in pages.items() if page.is_file()}
    curves, named = _curves(root, variants)
    values: dict[str, Any] = {
        "project": project, "variants": [asdict(row) for row in rows], "links": links, "curves": named,
        "loss": plot("losses", curves[:COLOURS], "loss"), "left_out": max(0, len(curves) - COLOURS),
    }  # fmt: skip
    return html("project.html.jinja", values)


def _curves(root: Path, variants: Sequence[str]) -> tuple[list[Curve], list[tuple[str, int]]]:
    """Give each trained variant's loss, and its name with the number of its colour."""
    curves: list[Curve] = []
    named: list[tuple[str, int]] = []
    for name in variants:
        rows = thinned(read_json_lines(root / "build" / name / "train" / "metrics.jsonl"), ("iteration", "loss"))
        if rows:
            losses = smoothed([row["loss"] for row in rows], _SPAN)
            curves.append(Curve([row["iteration"] for row in rows], losses, len(curves) + 1))
            named.append((name, len(curves)))
    return curves, named[:COLOURS]
