"""All figures of a training's data, with what they mean: what `tunemake check` tells and a report page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunemake.contracts import Sample
from tunemake.data_statistics import Statistics, measure
from tunemake.data_verdict import Verdict, data_verdict
from tunemake.leakage import Leakage, leakage
from tunemake.trained_text import TrainedTexts
from tunemake.training_length import TrainingLength, training_length


@dataclass(frozen=True)
class Figures:
    """Figures of one training's data. leakage, length: None where not all data is made. held_out: samples."""

    statistics: Statistics
    leakage: Leakage | None
    length: TrainingLength | None
    held_out: int

    @property
    def verdict(self) -> Verdict:
        """What they mean."""
        whole = self.leakage is not None
        return data_verdict(self.statistics, self.leakage, self.length, whole=whole, held_out=self.held_out)

    def as_json(self) -> dict[str, Any]:
        """Give all in one dict of what JSON knows; docs/check.md names its keys."""
        verdict = self.verdict
        return {
            **self.statistics.as_json(),
            "leakage": None if self.leakage is None else self.leakage.as_json(),
            "verdict": {"grade": verdict.grade, "text": verdict.text},
        }  # fmt: skip


def figures(
    train: Callable[[], Iterable[Sample]], count: int, held_out: Sequence[Sample], probes: Mapping[str, Sequence[str]],
    *, texts: TrainedTexts | None, words: Iterable[str], training: Mapping[str, Any], packing: bool,
    devices: int = 1, leaked: Leakage | None = None,
) -> Figures:  # fmt: skip
    """Give the figures of data that is all made.

    train: opens the training samples, as many as count; they are read twice. probes: prompts by the probe's name.
    texts: counts tokens; None leaves them out. words: what is markup to the model. training: the table train of
    project.toml; packing: data.packing; devices: that train. leaked: where it is known already; looking for it takes
    longest.
    """
    found = measure(train(), count, words, texts)
    length = training_length(found, training, packing=packing, devices=devices)
    return Figures(found, leaked or leakage(train(), count, held_out, probes), length, len(held_out))
