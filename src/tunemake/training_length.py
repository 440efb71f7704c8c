"""How long a training is: rows, iterations, steps and passes over the data, as XTuner counts them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunemake.data_statistics import Statistics, packs


@dataclass(frozen=True)
class TrainingLength:
    """rows: samples or packs, `batch_size` of which a device takes for an iteration. epochs: passes over them.

    filled: the part of the packs' places that holds tokens; None without packing. padded: the part of what an
    iteration reads that is padding, on average; None with packing, and where tokens are not counted. devices: in all.
    """

    rows: int
    iterations: int
    steps: int
    epochs: float
    filled: float | None = None
    padded: float | None = None
    devices: int = 1

    def as_json(self) -> dict[str, Any]:
        """Give the numbers for machines."""
        return {
            "rows": self.rows, "iterations": self.iterations, "steps": self.steps, "epochs": self.epochs,
            "filled": self.filled, "padded": self.padded, "devices": self.devices,
        }  # fmt: skip


def training_length(found: Statistics, train: Mapping[str, Any], *, packing: bool, devices: int = 1) -> TrainingLength:
    """Give the length of a training on data; train: the table of project.toml. Without tokens, nothing is left out.

    devices: in all, each of which takes its part of the rows.
    """
    rows, filled = _rows(found, packing=packing)
    each = math.ceil(math.ceil(rows / devices) / train["batch_size"])
    if "steps" in train:
        iterations = train["steps"] * train["accumulation"]
        epochs = round(iterations / each, 2) if each else 0.0
    else:
        iterations, epochs = train["epochs"] * each, float(train["epochs"])
    counted = found.tokens is not None and not packing and len(found.tokens.rows)
    padded = padding(found.tokens.rows, train["batch_size"]) if found.tokens is not None and counted else None
    steps = math.ceil(iterations / train["accumulation"])
    return TrainingLength(rows, iterations, steps, epochs, filled, padded, devices)


def padding(lengths: Sequence[int], batch: int) -> float:
    """Give the part of what is read that is padding, where rows of these lengths are put together by chance."""
    ordered, count = sorted(lengths), len(lengths)
    # Of all ways to take `batch` of the rows, the share in which the one at this place is the longest.
    batch, longest = min(batch, count), 0.0
    share = batch / count
    for place in range(count, batch - 1, -1):
        longest += share * ordered[place - 1]
        share *= (place - batch) / max(1, place - 1)
    return round(1 - sum(ordered) / (count * longest), 4)


def _rows(found: Statistics, *, packing: bool) -> tuple[int, float | None]:
    """Give the rows, and how full they are where they are packs."""
    if found.tokens is None:
        return found.samples, None
    measured, filled = len(found.tokens.rows), None
    if packing and measured:
        measured, tokens = packs(found.tokens.rows, found.tokens.max_length)
        filled = round(tokens / (measured * found.tokens.max_length), 4)
    return measured if found.measured == found.samples else round(measured / found.share), filled
