"""What the end of a build tells: scores beside their bounds, whether the gate failed, and where the model is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemake.gate import Bound


def score_table(scores: Mapping[str, Any], verdict: Mapping[str, Any] | None = None) -> str:
    """Give the scores of base and merged model as a plain table.

    scores: as evaluate writes them. verdict: gate.json of these scores, which adds each probe's bound and what became
    of it; None where no gate has judged them.
    """
    judged = {} if verdict is None else {probe["name"]: probe for probe in verdict["probes"]}
    rows = [("", "base", "merged", *(("bound", "gate") if judged else ()), "prompts", "")]
    for probe in scores["probes"]:
        told = ["-" if probe[model] is None else f"{probe[model]:.2f}" for model in ("base", "merged")]
        held = _held(judged.get(probe["name"])) if judged else ()
        rows.append((probe["name"], *told, *held, str(probe["prompts"] or "-"), probe["unit"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(_line(row, widths, words={0, 3, 4} if judged else {0}) + "\n" for row in rows)


def way_on(link: str, verdict: Mapping[str, Any] | None) -> str:
    """Say where a merged model is and how to talk to it; first that it failed its gate, where it did.

    link: the model's. verdict: gate.json; None where no gate has judged the model.
    """
    failed = ""
    if verdict is not None and not verdict["passed"]:
        names = ", ".join(probe["name"] for probe in verdict["probes"] if probe["required"] and not probe["passed"])
        failed = f"the gate failed: {names}; the model is kept to look at, not to be handed on\n"
    return f"\n{failed}merged model: {link}\ntalk to it:   {own_command('tunemake', Path.cwd())} chat {link}\n"


def _held(probe: Mapping[str, Any] | None) -> tuple[str, str]:
    """Give a probe's bound, and "ok", "failed", or "missed" where the build does not end by it."""
    if probe is None:
        return "-", "-"
    bound = Bound(probe["name"], probe["at_least"], probe["at_most"]).told()
    if probe["passed"]:
        return bound or "-", "ok" if bound else "-"
    return bound or "a number", "failed" if probe["required"] else "missed"


def _line(row: tuple[str, ...], widths: list[int], words: set[int]) -> str:
    """Write a row: its words to the left, its numbers to the right, the unit at the end as it is."""
    cells = [cell.ljust(width) if column in words else cell.rjust(width)
             for column, (cell, width) in enumerate(zip(row[:-1], widths, strict=False))]  # fmt: skip
    return "  ".join([*cells, row[-1]]).rstrip()


def own_command(name: str, at: Path) -> str:
    """Give a command of this environment as it can be typed in a folder: by its path where none is activated."""
    own = Path(sys.executable).with_name(name)
    if not own.exists() or shutil.which(name) == str(own):
        return name
    return str(own.relative_to(at)) if own.is_relative_to(at) else str(own)
