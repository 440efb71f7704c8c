"""The variants of a project side by side: scores, loss, time and size, from the records of what was built."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tunemake.artifacts import read_record

_SHOWN = ("train", "adapter", "merged", "evaluation", "gate")


@dataclass(frozen=True)
class Row:
    """A variant's figures; None for what was not built.

    scores: of the merged model, by probe. passed: its gate's verdict. loss: of the last iteration. training_seconds:
    of the iterations alone. trained_tokens: padding left out. adapter_bytes, merged_bytes: of all files.
    """

    variant: str
    scores: Mapping[str, float | None]
    passed: bool | None
    loss: float | None
    training_seconds: float | None
    trained_tokens: int | None
    adapter_bytes: int | None
    merged_bytes: int | None


def compared(root: Path, variants: Iterable[str]) -> list[Row]:
    """Give a row for each variant of the project in a folder, as it was built last."""
    return [_row(root / "build" / variant, variant) for variant in variants]


def as_json(rows: Sequence[Row]) -> str:
    """Write the rows for machines: a list of their fields."""
    return json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=1)


def as_text(rows: Sequence[Row]) -> str:
    """Write the rows as a plain table."""
    probes = list(dict.fromkeys(name for row in rows for name in row.scores))
    head = ("variant", "gate", *probes, "loss", "training s", "tokens", "adapter MB", "merged MB")
    lines = [head, *(_cells(row, probes) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def _row(folder: Path, variant: str) -> Row:
    records = {stage: read_record(folder / stage) or {} for stage in _SHOWN}
    train, evaluation, gate = (records[stage].get("facts", {}) for stage in ("train", "evaluation", "gate"))
    sizes = {
        stage: sum(output["size"] for output in records[stage]["outputs"].values()) if records[stage] else None
        for stage in ("adapter", "merged")
    }
    return Row(
        variant,
        evaluation.get("scores", {}),
        gate.get("passed"),
        train.get("loss"),
        train.get("training_seconds"),
        train.get("tokens"),
        sizes["adapter"],
        sizes["merged"],
    )


def _cells(row: Row, probes: Sequence[str]) -> tuple[str, ...]:
    def told(value: float | None, form: str, unit: float = 1) -> str:
        return "-" if value is None else f"{value / unit:{form}}"

    passed = "-" if row.passed is None else "passed" if row.passed else "failed"
    return (
        row.variant, passed, *(told(row.scores.get(name), ".2f") for name in probes), told(row.loss, ".3f"),
        told(row.training_seconds, ".1f"), told(row.trained_tokens, ",.0f"), told(row.adapter_bytes, ",.1f", 1e6),
        told(row.merged_bytes, ",.1f", 1e6),
    )  # fmt: skip
