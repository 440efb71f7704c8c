"""How long a training is: rows, iterations, steps and passes over the data, as XTuner counts them on one device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunemake.data_statistics import Statistics, packs


@dataclass(frozen=True)
class TrainingLength:
    """rows: what XTuner takes `batch_size` of for an iteration: samples, or packs of them. epochs: passes over them.

    filled: the part of the packs' places that holds tokens; None without packing.
    """

    rows: int
    iterations: int
    steps: int
    epochs: float
    filled: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the numbers for machines."""
        return {
            "rows": self.rows, "iterations": self.iterations, "steps": self.steps, "epochs": self.epochs,
            "filled": self.filled,
        }  # fmt: skip


def training_length(found: Statistics, train: Mapping[str, Any], *, packing: bool) -> TrainingLength:
    """Give the length of a training on data; train: the table of project.toml. Without tokens, nothing is left out."""
    rows, filled = _rows(found, packing=packing)
    each = math.ceil(rows / train["batch_size"])
    if "steps" in train:
        iterations = train["steps"] * train["accumulation"]
        epochs = round(iterations / each, 2) if each else 0.0
    else:
        iterations, epochs = train["epochs"] * each, float(train["epochs"])
    return TrainingLength(rows, iterations, math.ceil(iterations / train["accumulation"]), epochs, filled)


def _rows(found: Statistics, *, packing: bool) -> tuple[int, float | None]:
    """Give the rows, and how full they are where they are packs."""
    if found.tokens is None:
        return found.samples, None
    measured, filled = len(found.tokens.rows), None
    if packing and measured:
        measured, tokens = packs(found.tokens.rows, found.tokens.max_length)
        filled = round(tokens / (measured * found.tokens.max_length), 4)
    return measured if found.measured == found.samples else round(measured / found.share), filled
