"""One stage: is its artifact fresh, why not, and the making of it. Knows nothing of doit."""

from __future__ import annotations

import fnmatch
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunemake import __version__, models, shelves
from tunemake.artifacts import Made, commit, read_record
from tunemake.faults import Fault, InputError, StageError, StoppedError
from tunemake.graph import Need, Stage
from tunemake.plugins import DATASETS, Plugins, installed_version
from tunemake.process import Event, run_stage
from tunemake.project import Project
from tunemake.stages import Job
from tunemake.staleness import Decides, reasons
from tunemake.store import Store

_HEAVY = ("torch", "transformers", "peft", "datasets", "xtuner", "mmengine", "bitsandbytes", "tokenizers", "numpy")


@dataclass(frozen=True)
class State:
    """What is known of a stage's artifact now. reasons: why it is stale; [] where it is fresh."""

    decides: Decides
    reasons: list[str]
    in_store: bool

    @property
    def fresh(self) -> bool:
        """Whether nothing has to be done."""
        return not self.reasons


class Builder:
    """Decides on and makes the artifacts of one project."""

    def __init__(self, project: Project, made: list[Stage], plugins: Plugins, store: Store) -> None:
        self.project, self.root, self.store, self.plugins = project, project.root, store, plugins
        self.stages = {stage.name: stage for stage in made}

    def state(self, name: str) -> State:
        """Compare what is there with what the project asks for; raises InputError where an input is missing."""
        stage = self.stages[name]
        decides = self._decides(stage)
        if self.store.is_forgotten(stage.link):
            return State(decides, ["forgotten on request"], in_store=False)
        flaws = self.store.flaws(decides)
        if flaws is None:
            before = self.store.record(stage.link)
            return State(decides, reasons(before, decides, stage.titles) or ["not built yet"], in_store=False)
        if flaws:
            return State(decides, [f"{stage.link}/{flaw}" for flaw in flaws], in_store=False)
        if self.store.is_shown(stage.link, decides):
            return State(decides, [], in_store=True)
        before = self.store.record(stage.link)
        return State(decides, reasons(before, decides, stage.titles) or ["its link is gone"], in_store=True)

    def make(self, name: str, *, anew: bool, watch: Callable[[Event], None]) -> Mapping[str, Any]:
        """Make a stage's artifact, unless another build has meanwhile; give its record.

        anew: make it even where it is fresh. Raises InputError, StageError or StoppedError.
        """
        try:
            return self._make_once(self.stages[name], anew=anew, watch=watch)
        except (InputError, StageError) as error:
            raise type(error)(self.project.located(fault) for fault in error.faults) from None

    def _make_once(self, stage: Stage, *, anew: bool, watch: Callable[[Event], None]) -> Mapping[str, Any]:
        state = self.state(stage.name)

        def wait(process: str) -> None:
            watch({"say": f"waiting for another build, process {process}, which makes the same"})

        with self.store.lock(state.decides, wait) as lock:
            if anew or self.store.is_forgotten(stage.link) or not self.store_has(state.decides):
                self._make(stage, state.decides, lock, watch)
            self.store.show(stage.link, state.decides)
        self.store.digests.save()
        record = self.store.record(stage.link)
        assert record is not None
        return record

    def store_has(self, decides: Decides) -> bool:
        """Say whether the store holds this artifact, whole; a folder finished but not yet in place is put there."""
        return self.store.flaws(decides) == []

    def _make(self, stage: Stage, decides: Decides, lock: int, watch: Callable[[Event], None]) -> None:
        kept = self.store.set_aside(decides)
        work = self.store.work(decides)
        if not stage.resumes or read_record(work) is not None:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        job = Job(self.root, work, stage.parameters, stage.runtime, self._inputs(stage))
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        try:
            facts = run_stage(stage.kind, job, lock, watch)
        except StoppedError as error:
            raise _stopped(stage, work, error) from None
        self.store.digests.refresh()
        made = Made(started, round(time.monotonic() - clock, 2), _environment(), stage.runtime, facts)
        try:
            commit(work, self.store.entry(decides), decides, made, stage.outputs, self.store.digests)
        except OSError as error:
            fault = Fault(stage.name, f"cannot be put in place: {error.strerror}", got=str(error.filename or work))
            raise StageError(fault) from error
        for name, place in kept.items():
            watch({"say": f"{stage.link}/{name} was changed by hand; the change is kept as {place}, "
                          "and a lasting one belongs in project.toml or templates/"})  # fmt: skip
        self._log(stage, decides, made)

    def _log(self, stage: Stage, decides: Decides, made: Made) -> None:
        line = {"stage": stage.name, "artifact": decides.folder_name, "started": made.started, "seconds": made.seconds}
        with (self.store.build / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _inputs(self, stage: Stage) -> dict[str, Path]:
        return {role: self.root / self.stages[need.stage].link for role, need in stage.needs.items()}

    def _decides(self, stage: Stage) -> Decides:
        inputs: dict[str, str] = {}
        for role, need in stage.needs.items():
            inputs |= {f"{role}/{name}": digest for name, digest in self._taken(stage, need).items()}
        code: dict[str, str] = {}
        if stage.generator is not None:
            for name, _ in self.plugins.used(stage.generator, stage.parameters["parameters"]):
                code |= self.plugins.code_digests(self.plugins.get(DATASETS, name))
        return Decides(stage.kind, stage.version, stage.parameters, inputs, self._sources(stage), code)

    def _taken(self, stage: Stage, need: Need) -> dict[str, str]:
        record = self.store.record(self.stages[need.stage].link)
        if record is None:
            raise InputError(Fault(stage.name, f"needs {need.stage}", next_step=f"run doit {need.stage}"))
        names = [n for n in record["outputs"] if any(fnmatch.fnmatchcase(n, pattern) for pattern in need.files)]
        return {name: record["outputs"][name]["sha256"] for name in names if name != "log.txt"}

    def _sources(self, stage: Stage) -> dict[str, str]:
        files = {name: self._source(name) for name in stage.sources}
        if stage.generator is not None:
            given = self.plugins.inputs(stage.generator, stage.parameters["parameters"])
            files |= {self._portable(path): path for path in given}
        if stage.folder is not None:
            folder = (self.root / stage.folder).resolve()
            files |= {f"{stage.folder}/{p.relative_to(folder)}": p for p in models.model_files(folder)}
        told = f"not found; {stage.name} reads it"
        missing = [Fault(name, told) for name, path in files.items() if not path.is_file()]
        if missing:
            raise InputError(missing)
        return dict(zip(files, self.store.digests.of_many(files.values()), strict=True))

    def _source(self, name: str) -> Path:
        if name.startswith("templates/"):
            return shelves.find("templates", name.removeprefix("templates/"), self.root)
        return self.root / name

    def _portable(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name


def _stopped(stage: Stage, work: Path, error: StoppedError) -> StoppedError:
    """Say what the next build will do about work that was interrupted."""
    told = "the next build makes it"
    if stage.resumes:
        kept = any(work.glob("iter_*.pth"))
        told = "the next build goes on from its newest checkpoint" if kept else "no checkpoint was saved yet"
    return StoppedError(Fault(stage.name, error.faults[0].what, next_step=told), error.signal_number)


def _environment() -> dict[str, str]:
    found = {name: installed_version(name) for name in _HEAVY}
    told = {"tunemake": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return told | {name: version for name, version in found.items() if version is not None}
