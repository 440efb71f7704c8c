"""Checks a project's data: makes what is quickly made, by the ordinary build, and measures what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunemake.building import Builder
from tunemake.contracts import Sample
from tunemake.data_figures import Figures, figures
from tunemake.data_findings import data_findings
from tunemake.data_statistics import measure
from tunemake.faults import Fault, InputError, StageError
from tunemake.findings import Finding, errors, unchecked
from tunemake.launch_fit import devices
from tunemake.leakage import Leakage
from tunemake.leakage_findings import leakage_findings
from tunemake.process import Event
from tunemake.project import Dataset, Project
from tunemake.samples import read_samples
from tunemake.stage import Stage
from tunemake.stages.data import HELD_OUT, TRAIN, samples_file
from tunemake.stages.dataset import REJECTS, SAMPLES
from tunemake.trained_text import TrainedTexts

Leaks = dict[tuple[Path, tuple[tuple[str, tuple[str, ...]], ...]], Leakage | None]
Watching = Callable[[str], AbstractContextManager[Callable[[Event], None]]]


@dataclass
class Data:
    """What is known of a project's data.

    datasets: counts by name, None for one that is not made. file: the training samples where all of it is made; made:
    the files of the datasets that are.
    figures: of the training samples, or of the datasets that are made; None where there are none. held_out: samples.
    """

    datasets: dict[str, dict[str, int] | None] = field(default_factory=dict)
    file: Path | None = None
    made: list[Path] = field(default_factory=list)
    held_out: int = 0
    figures: Figures | None = None
    findings: list[Finding] = field(default_factory=list)

    def samples(self) -> Iterator[Sample]:
        """Give the samples that training would see, as far as they are made."""
        return chain.from_iterable(map(read_samples, [self.file] if self.file else self.made))

    def first(self, count: int) -> list[Sample]:
        """Give the first of them."""
        return list(islice(self.samples(), count))


class DataCheck:
    """Makes and measures the data of one variant.

    watching: gives what is shown of a stage that runs. leaks: what leaked, by data and prompts, which variants share.
    """

    def __init__(self, builder: Builder, project: Project, watching: Watching, leaks: Leaks) -> None:
        self._builder, self._project, self._watching, self._leaks = builder, project, watching, leaks
        self.data = Data()

    def run(self, texts: TrainedTexts | None, words: set[str], probes: Mapping[str, Sequence[str]]) -> Data:
        """Give what is found.

        texts: counts tokens; words: markup of the template, which no sample should contain; probes: prompts by name.
        """
        data = self.data
        data.made = [file for dataset in self._project.datasets if (file := self._dataset(dataset)) is not None]
        if len(data.made) == len(self._project.datasets):
            self._mix()
        if count := self._count():
            data.figures = self._figures(count, texts, words, probes)
            data.findings += data_findings(data.figures.statistics, whole=data.file is not None)
            data.findings += leakage_findings(data.figures.leakage) if data.figures.leakage else ()
        return data

    def _figures(
        self, count: int, texts: TrainedTexts | None, words: set[str], probes: Mapping[str, Sequence[str]]
    ) -> Figures:
        data = self.data
        if data.file is None:
            return Figures(measure(data.samples(), count, words, texts), None, None, 0)
        held_out = list(read_samples(samples_file(data.file.parent, HELD_OUT)))
        key = data.file.resolve(), tuple((name, tuple(prompts)) for name, prompts in probes.items())
        made = figures(
            data.samples, count, held_out, probes, texts=texts, words=words, training=self._project.train,
            packing=self._project.data["packing"], devices=devices(self._project.launch), leaked=self._leaks.get(key),
        )  # fmt: skip
        self._leaks[key] = made.leakage
        return made

    def _dataset(self, dataset: Dataset) -> Path | None:
        """Make a dataset where it may be, and note its counts; give its file, or None."""
        name = f"datasets.{dataset.name}"
        stage = self._stage(f"dataset:{dataset.name}")
        self.data.datasets[dataset.name] = None
        why = self._why_not(dataset, stage)
        if why is not None and not self._at_hand(stage):
            step = f"doit {stage.name} makes it"
            self.data.findings.append(unchecked(name, why, step))
            return None
        if not self._made(stage, "dataset"):
            return None
        facts = self._facts(stage)
        self.data.datasets[dataset.name] = {key: facts.get(key, 0) for key in ("samples", "unique", "rejected")}
        if rejected := facts.get("rejected", 0):
            what = f"rows that gave no sample, and are left out: {rejected:,}"
            self._find("warning", "rejected", Fault(name, what, next_step=f"see {stage.link}/{REJECTS}"))
        return self._builder.root / stage.link / SAMPLES

    def _why_not(self, dataset: Dataset, stage: Stage) -> str | None:
        """Say why a dataset is not made here."""
        if "base" in stage.needs:
            return "it asks the base model, and is not made yet"
        if self._builder.plugins.downloads(dataset.generator, dataset.parameters):
            return "it comes from a hub, and is not fetched yet"
        return None

    def _at_hand(self, stage: Stage) -> bool:
        """Say whether an artifact is there, be it only its link that must be set."""
        try:
            state = self._builder.state(stage.name)
        except InputError:
            return False
        return state.fresh or state.in_store

    def _mix(self) -> None:
        stage = self._stage("data")
        if not self._made(stage, "data"):
            return
        self.data.file = samples_file(self._builder.root / stage.link, TRAIN)
        self.data.held_out = self._facts(stage)[HELD_OUT]["samples"]
        if self._project.data["held_out"] and not self.data.held_out:
            what = "no sample is held out: there are too few unlike ones"
            self._find("note", "none_held_out", Fault("data.held_out", what))

    def _made(self, stage: Stage, code: str) -> bool:
        try:
            if not self._builder.state(stage.name).fresh:
                with self._watching(stage.name) as watch:
                    self._builder.make(stage.name, anew=False, watch=watch)
        except (InputError, StageError) as error:
            self.data.findings += errors(code, error.faults)
            return False
        return True

    def _count(self) -> int:
        if self.data.file is not None:
            return int(self._facts(self._stage("data"))[TRAIN]["samples"])
        return sum(counts["samples"] for counts in self.data.datasets.values() if counts)

    def _facts(self, stage: Stage) -> dict[str, Any]:
        record = self._builder.store.record(stage.link)
        assert record is not None
        return dict(record["facts"])

    def _stage(self, name: str) -> Stage:
        return stage_of(self._builder, self._project, name)

    def _find(self, severity: Any, code: str, fault: Fault) -> None:
        self.data.findings.append(Finding(severity, code, fault))


def stage_of(builder: Builder, project: Project, name: str) -> Stage:
    """Give a variant's own stage of a name, or the one that it shares with others."""
    own = f"{name}:{project.variant.name}"
    return builder.stages[own if own in builder.stages else name]
