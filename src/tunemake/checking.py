"""All that can be wrong before a training, looked for in seconds and without torch."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tunemake import models, template_fit
from tunemake.build_size import build_size
from tunemake.building import Builder
from tunemake.chat_templates import resolved
from tunemake.contracts import Question
from tunemake.data_check import Data, DataCheck, Leaks, Watching, stage_of
from tunemake.data_findings import length_findings
from tunemake.engines import sizing, xtuner
from tunemake.faults import Fault, InputError, ModelError
from tunemake.findings import Finding, Severity, errors, unchecked
from tunemake.job_request import lacking
from tunemake.launch_fit import devices
from tunemake.machine import absent_gpu, gpu_findings, library_findings, needs_gpu, room_findings
from tunemake.project import Project, machine_environment
from tunemake.questions import asked_again, questions_of, refuse_trained
from tunemake.stage import Stage
from tunemake.stages import export
from tunemake.stages.base import FACTS, MODEL
from tunemake.stages.config import model_faults, training
from tunemake.trained_text import TOKENIZER, LightTokenizer, TrainedTexts
from tunemake.training_length import TrainingLength


@dataclass
class Checked:
    """What was found of one variant.

    base: the model's facts; memory: what is chosen for the training's device, and why; writes: bytes by what is
    written; free: bytes.
    """

    variant: str
    data: Data = field(default_factory=Data)
    base: dict[str, Any] | None = None
    length: TrainingLength | None = None
    memory: str | None = None
    writes: dict[str, int] = field(default_factory=dict)
    free: int = 0
    findings: list[Finding] = field(default_factory=list)


def check_builder(builder: Builder, watching: Watching) -> list[Checked]:
    """Check a project, variant by variant. Makes light datasets where they are not made yet."""
    leaks: Leaks = {}
    found = [Check(builder, project, watching, leaks).run() for project in builder.projects.values()]
    builder.store.digests.save()
    return found


def base_folder(builder: Builder, project: Project) -> Path | None:
    """Give the base model's folder where it is at hand: the user's own, or one that was fetched; else None."""
    source = models.parse_source(project.model["source"])
    if source.kind == "folder":
        return builder.root / source.name
    stage = stage_of(builder, project, "base")
    return builder.root / stage.link / MODEL if builder.state(stage.name).fresh else None


class Check:
    """The check of one variant. leaks: what leaked in the data of others."""

    def __init__(self, builder: Builder, project: Project, watching: Watching, leaks: Leaks) -> None:
        self._builder, self._project, self._watching, self._leaks = builder, project, watching, leaks
        self._found = Checked(project.variant.name)
        self._unparted = False  # an effective batch, of which nothing tells yet how it is parted

    def run(self) -> Checked:
        """Give what was found."""
        folder = self._base()
        self._project = replace(self._project, train=self._train(folder))
        texts = self._texts(folder)
        words = set(self._template(folder)["stop_words"]) | (texts.special_tokens() if texts else set())
        questions = self._questions()
        probes = {name: [question.prompt for question in asked] for name, asked in questions.items()}
        data = DataCheck(self._builder, self._project, self._watching, self._leaks).run(texts, words, probes)
        self._found.data = data
        self._found.findings += [*data.findings, *self._length(), *self._evaluation(questions)]
        self._found.findings += self._config(folder)
        self._found.findings += self._template_fit(folder, data)
        self._found.findings += self._machine(folder)
        located = [replace(f, fault=self._project.located(f.fault)) for f in self._found.findings]
        self._found.findings = located
        return self._found

    def _base(self) -> Path | None:
        """Describe the base model; give its folder where it is at hand and whole."""
        found = self._found
        folder = base_folder(self._builder, self._project)
        stage = stage_of(self._builder, self._project, "base")
        if folder is None:
            step = f"doit {stage.name} fetches it; then tokens, template and disk space are checked too"
            found.findings.append(unchecked("model.source", "the base model is not here yet", step))
            return None
        if folder.parent == self._builder.root / stage.link:
            found.base = json.loads((folder.parent / FACTS).read_text("utf-8"))
            return folder
        try:
            facts = models.describe(folder, trust_remote_code=self._project.model["trust_remote_code"])
        except ModelError as error:
            found.findings += errors("base", error.faults)
            return None
        found.base = {"source": self._project.model["source"], **asdict(facts)}
        if self._project.model.get("sha256") is not None and not self._is_built(stage.name):
            found.findings.append(unchecked("model.sha256", "the model's files are not hashed here; the build does it"))
        return folder

    def _train(self, folder: Path | None) -> dict[str, Any]:
        """Give the table train with batch_size and accumulation: as chosen, as they would be, or as if all fitted."""
        stage = stage_of(self._builder, self._project, "config")
        choice: sizing.Choice = {}
        if self._is_built(stage.name):
            choice = (self._builder.store.record(stage.link) or {"facts": {}})["facts"].get("chosen", {})
        elif folder is not None and self._found.base is not None:
            try:
                asked, memory = training(stage.parameters, stage.runtime, self._found.base, folder)
                choice = self._kept(stage, asked) or sizing.choose(asked, memory)
                self._found.findings += sizing.findings(asked, memory, choice)
            except InputError as error:
                # Where it is a missing GPU that leaves it open, that is told with the machine.
                here = self._project.launch["on"] == "here"
                absent = here and absent_gpu(self._project.train, machine_environment()) is not None
                self._found.findings += [] if absent else errors("batch", error.faults)
        elif "effective_batch" in self._project.train:
            self._unparted = True
        self._found.memory = choice.get(sizing.WHY)
        return sizing.batches(self._project.train, devices(self._project.launch), choice)

    def _kept(self, stage: Stage, asked: sizing.Training) -> sizing.Choice | None:
        """Give what tunemake.lock has chosen, where the base model's files are known by their digest."""
        digest = (self._found.base or {}).get("sha256")
        made = None if digest is None else sizing.made_for(stage.parameters, digest)
        return None if made is None else sizing.kept(asked, stage.runtime["choices"], made)

    def _is_built(self, name: str) -> bool:
        try:
            return self._builder.state(name).fresh
        except InputError:
            return False

    def _texts(self, folder: Path | None) -> TrainedTexts | None:
        if folder is None:
            return None
        if not (folder / TOKENIZER).is_file():
            self._found.findings.append(unchecked("data", f"tokens, since the base model has no {TOKENIZER}"))
            return None
        try:
            return TrainedTexts(folder, self._raw_template(), self._project.data["max_length"])
        except ModelError as error:
            self._found.findings += errors("base", error.faults)
            return None

    def _raw_template(self) -> dict[str, Any]:
        return self._builder.plugins.prompt_template(self._project.model["prompt_template"])

    def _template(self, folder: Path | None) -> dict[str, Any]:
        template = self._raw_template()
        try:
            return template if folder is None else resolved(template, folder)
        except ModelError:
            return template

    def _template_fit(self, folder: Path | None, data: Data) -> list[Finding]:
        """Hold the prompt template against model and first samples, as the stage train does before it trains."""
        if folder is None or not (folder / TOKENIZER).is_file():
            return [] if folder is None else [unchecked("model.prompt_template", f"the base model has no {TOKENIZER}")]
        model, plugins = self._project.model, self._builder.plugins
        try:
            found = template_fit.find(
                folder, model["prompt_template"], self._raw_template(), data.first(template_fit.FIRST),
                shipped=lambda: template_fit.at_hand(plugins), trust_remote_code=model["trust_remote_code"],
                tokenizer=LightTokenizer.of(folder),
            )  # fmt: skip
        except InputError as error:
            return errors("template", error.faults)
        mode = model["template_check"]
        # Markup in texts was looked for in all samples.
        found = [finding for finding in found if finding.code != "template_in_samples"]
        told = [replace(finding, severity=_severity(finding.severity, mode)) for finding in found]
        return [finding for finding in told if mode != "off" or finding.severity == "error"]

    def _length(self) -> Iterator[Finding]:
        data, train = self._found.data, self._project.train
        if data.figures is None:
            return
        if data.figures.length is None:
            yield unchecked("train", "how long it is, since not all data is made")
            return
        if self._unparted:
            yield unchecked("train", "how long it is: batch_size is chosen when the base model is there (doit base)")
            return
        self._found.length = data.figures.length
        yield from length_findings(data.figures.length, data.figures.statistics.samples, train)

    def _questions(self) -> dict[str, list[Question]]:
        """Give what the probes ask that ask something of their own, by the probe's name."""
        probes = (self._project.evaluate or {"probe": []})["probe"]
        asked = {probe["name"]: probe["prompts"] for probe in probes if "prompts" in probe}
        try:
            return {name: questions_of(self._builder.root, told, _probe(name)) for name, told in asked.items()}
        except InputError as error:
            self._found.findings += errors("evaluation", error.faults)
            return {}

    def _evaluation(self, questions: Mapping[str, Sequence[Question]]) -> list[Finding]:
        told = {name: asked_again(asked) for name, asked in questions.items()}
        again = [Finding("note", "prompts_again", Fault(_probe(name), what)) for name, what in told.items() if what]
        if self._found.data.file is None:
            return again
        try:
            refuse_trained({_probe(name): asked for name, asked in questions.items()}, self._found.data.file)
        except InputError as error:
            return again + errors("evaluation", error.faults)
        return again

    def _config(self, folder: Path | None) -> list[Finding]:
        values = dict(stage_of(self._builder, self._project, "config").parameters)
        found = errors("base", model_faults(self._found.base, values)) if self._found.base else []
        found += self._export(folder)
        template = self._template(folder)
        if template.get("from_tokenizer"):
            return found
        try:
            xtuner.render_config({**values, "prompt_template": template}, self._builder.root)
        except InputError as error:
            found += errors("config", error.faults)
        return found

    def _export(self, folder: Path | None) -> list[Finding]:
        if folder is None or self._project.export is None:
            return []
        try:
            export.refuse(folder, self._project.export["formats"])
        except InputError as error:
            return errors("export", error.faults)
        return []

    def _machine(self, folder: Path | None) -> Iterator[Finding]:
        train = self._project.train
        if self._project.launch["on"] == "slurm":
            yield from _cluster_findings(train)
        else:
            yield from gpu_findings(train, self._project.launch["gpus"], machine_environment())
        yield from library_findings(train, sys.executable)
        self._found.free = shutil.disk_usage(self._builder.root).free
        merged = stage_of(self._builder, self._project, "merge").name
        if folder is None or self._found.base is None or self._found.length is None or self._is_built(merged):
            return
        every = train["checkpoints"]["every"]
        apart = every * train["accumulation"] if isinstance(every, int) else int(every.partition(" ")[0])
        formats = (self._project.export or {"formats": []})["formats"]
        self._found.writes = build_size(
            folder, train, self._project.merge, self._found.length.iterations, apart,
            tokens=self._written_tokens(), formats=formats,
        )  # fmt: skip
        yield from room_findings(sum(self._found.writes.values()), self._found.free, self._found.writes)

    def _written_tokens(self) -> int:
        """Count the tokens that the stage `tokens` has yet to write; 0 where there is none, or nothing counts them."""
        stage, figures = stage_of(self._builder, self._project, "train").needs.get("tokens"), self._found.data.figures
        if stage is None or figures is None or self._is_built(stage.stage):
            return 0
        # Samples that are packed wait in a file while packs are written.
        return figures.statistics.row_tokens * (2 if self._project.data["packing"] else 1)


def _cluster_findings(train: Mapping[str, Any]) -> Iterator[Finding]:
    """Tell what keeps jobs from being sent to Slurm, and what only a node of it can tell."""
    if missing := lacking(sys.executable):
        yield from errors("slurm", [missing])
    if (needs := needs_gpu(train)) is not None:
        yield unchecked(needs[0], f"{needs[1]} needs a CUDA GPU, and only the job's node can tell whether it has one")


def _probe(name: str) -> str:
    return f"evaluate.probe {name}"


def _severity(found: Severity, mode: str) -> Severity:
    """Give what a finding of a template amounts to. mode: model.template_check."""
    return "error" if mode == "error" and found == "warning" else found
