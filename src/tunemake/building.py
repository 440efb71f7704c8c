"""One stage: is its artifact fresh, why not, and the making of it. Knows nothing of doit."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from tunemake import __version__
from tunemake.artifacts import RECORD, Made, commit, elsewhere, read_record
from tunemake.deciding import Deciding, Taken
from tunemake.digests import sha256_of_file
from tunemake.distributions import installed_version
from tunemake.engines import sizing
from tunemake.extension import take_over, why_anew
from tunemake.faults import Fault, InputError, StageError, StoppedError
from tunemake.later_imports import without_torch
from tunemake.plugins import Plugins
from tunemake.process import Event, RunStage, run_stage
from tunemake.project import Project
from tunemake.remote_store import RemoteStore
from tunemake.shares import Share, share, threads
from tunemake.slurm import Slurm, refuse_its_job
from tunemake.stage import Stage
from tunemake.stages import Job
from tunemake.staleness import Decides, reasons
from tunemake.store import Store
from tunemake.withholding import after, gate_of, needed, verdict, withheld_by

_HEAVY = (
    "torch", "transformers", "peft", "datasets", "xtuner", "mmengine", "bitsandbytes", "tokenizers", "numpy", "pyarrow",
    "liger-kernel", "deepspeed", "triton",
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """What is known of a stage's artifact now.

    taken: what it is made from, as found when that was digested. reasons: why it is stale; [] where it is fresh.
    """

    decides: Decides
    taken: Taken
    reasons: list[str]
    in_store: bool

    @property
    def fresh(self) -> bool:
        """Whether nothing has to be done."""
        return not self.reasons


class Builder:
    """Decides on and makes the artifacts of one project.

    projects: it, once for each of its variants; `project` is the first of them. run: runs a stage.
    """

    def __init__(
        self, projects: list[Project], made: list[Stage], plugins: Plugins, store: Store, run: RunStage = run_stage
    ) -> None:
        self.project, self.store, self.plugins, self._run = projects[0], store, plugins, run
        self.root = self.project.root
        self.projects = {project.variant.name: project for project in projects}
        self.stages = {stage.name: stage for stage in made}
        self._deciding = Deciding(self.root, self.stages, plugins, store.digests)
        told = self.project.store
        self.remote = RemoteStore(told["url"], checkpoints=told["checkpoints"]) if "url" in told else None

    def state(self, name: str, moved: Mapping[str, Path] | None = None) -> State:
        """Compare what is there with what the project asks for; raises InputError where an input is missing.

        moved: artifacts, by stage, that other stages' links will lead to by then.
        """
        stage = self.stages[name]
        decides, taken = self._deciding.of(stage, moved or {})
        why, in_store = self._why(stage, decides)
        return State(decides, taken, why, in_store)

    def can_be_glanced_at(self) -> bool:
        """Say whether all that decides is noted when it is looked at."""
        return all(
            self.plugins.reads_in_sight(stage.generator, stage.parameters["parameters"])
            for stage in self.stages.values()
            if stage.generator is not None
        )

    def _why(self, stage: Stage, decides: Decides) -> tuple[list[str], bool]:
        """Say why an artifact is stale, and whether the store holds it."""
        if self._is_forgotten(stage):
            return ["forgotten on request"], False
        if other := self._otherwise(stage, decides):
            return [f"tunemake.lock has {other}"], False
        flaws = self.store.flaws(decides)
        if flaws:
            return [f"{stage.link}/{flaw}" for flaw in flaws], False
        if flaws == [] and all(self.store.is_shown(link, decides) for link in stage.links):
            return [], True
        before = self.store.record(stage.link)
        if before is None and flaws == []:
            return ["no link shows it"], True
        told = reasons(before, decides, stage.titles)
        if note := why_anew(before, decides):
            told.append(note)
        return told or ["not built yet" if flaws is None else "its link is gone"], flaws == []

    def _otherwise(self, stage: Stage, decides: Decides) -> str | None:
        """Say what was chosen for an artifact otherwise than tunemake.lock has it, which is kept to on any machine."""
        choices = stage.runtime.get("choices", ())
        return sizing.unlike(read_record(self.store.entry(decides)), choices) if choices else None

    def _is_forgotten(self, stage: Stage) -> bool:
        return any(self.store.is_forgotten(link) for link in stage.links)

    def make(self, name: str, *, anew: bool, watch: Callable[[Event], None]) -> float | None:
        """Make a stage's artifact; give the seconds that took, or None where it was found made.

        anew: make it even where it is fresh. Raises InputError, StageError or StoppedError.
        """
        try:
            return self._make_once(self.stages[name], anew=anew, watch=watch)
        except (InputError, StageError) as error:
            project = self.projects[self.stages[name].variant]
            raise type(error)(project.located(fault) for fault in error.faults) from None
        except OSError as error:  # a full disk, a read-only folder, a mount that is gone
            place = f"{error.filename or 'build/'}"
            step = "what was built before is as it was; mend that and run doit again"
            raise StageError(Fault(name, f"{error.strerror or error}", got=place, next_step=step)) from error

    def _make_once(self, stage: Stage, *, anew: bool, watch: Callable[[Event], None]) -> float | None:
        state = self.state(stage.name)

        def wait(process: str) -> None:
            watch({"say": f"waiting for another build, process {process}, which makes the same"})

        seconds, lacking = None, list[str]()
        with self.store.lock(state.decides, wait) as lock:
            old = self._is_forgotten(stage) or self._otherwise(stage, state.decides)
            if anew or old or not self._found(stage, state.decides, watch):
                lacking = self._lacking(stage, watch)
                seconds = None if lacking else self._make(stage, state, lock, watch)
            for link in () if lacking else stage.links:
                self.store.show(link, state.decides)
        if lacking:
            for name in lacking:
                watch({"say": f"{name} was made elsewhere, and {stage.name} reads what of it is not here: made here"})
                self._make_once(self.stages[name], anew=True, watch=watch)
            return self._make_once(stage, anew=anew, watch=watch)
        if self.remote is not None:
            self._send(stage, state.decides, watch, made=seconds is not None)
        self.store.digests.save()
        return seconds

    def _send(self, stage: Stage, decides: Decides, watch: Callable[[Event], None], *, made: bool) -> None:
        """Send what was made to the shared store; what a gate judges waits for it, and goes when it has passed."""
        assert self.remote is not None
        if stage.kind == "gate" and self.passed(stage.name):
            for name in withheld_by(self.stages, stage.name):
                self.remote.send((self.root / self.stages[name].link).resolve(), watch)
            # One that is stale is made after this, and goes then.
            for name in (name for name in after(self.stages, stage.name) if self.state(name).fresh):
                self.remote.send((self.root / self.stages[name].link).resolve(), watch)
        elif made and self._may_go(stage.name):
            self.remote.send(self.store.entry(decides), watch)

    def _may_go(self, name: str) -> bool:
        """Say whether what a stage just made waits for no gate, or for one that has passed before it."""
        gate = gate_of(self.stages, name)
        return gate is None or (name in after(self.stages, gate) and self.passed(gate))

    def passed(self, gate: str) -> bool:
        """Say whether a gate's artifact, as it is shown now, says that the model passed."""
        told = verdict(self.root / self.stages[gate].link)
        return told is not None and bool(told["passed"])

    def is_built(self, name: str) -> bool:
        """Say whether a stage's artifact and all that it was made from are fresh; not where something is not there."""
        try:
            return self.state(name).fresh and not self.stale_below(name)
        except InputError:
            return False

    def stale_below(self, name: str) -> list[str]:
        """Name what a stage needs, and what that needs, that is not fresh; raises InputError where it is not there."""
        return [one for one in needed(self.stages, name) if one != name and not self.state(one).fresh]

    def _found(self, stage: Stage, decides: Decides, watch: Callable[[Event], None]) -> bool:
        if self.store.holds(decides) or self.store.adopts(stage.link, decides):
            return True
        if self.remote is None:
            return False
        left = self.remote.fetch(decides, stage.outputs, self.store.draft(decides), watch)
        if left is None:
            return False
        self._tell_kept(stage, self.store.set_aside(decides), watch)
        if found := self.store.takes(decides, left):
            files = f"{len(left)} file{'s' * (len(left) != 1)} not fetched"
            watch({"say": f"{stage.name}: made elsewhere, {files if left else 'fetched from ' + self.remote.url}"})
        return found

    def _lacking(self, stage: Stage, watch: Callable[[Event], None]) -> list[str]:
        """Name the stages whose files this one must read, and that were fetched without them.

        Those of this machine's own making are fetched now. Others are not: a checkpoint of a stranger is never read.
        """
        lacking = []
        for need in stage.needs.values():
            entry = (self.root / self.stages[need.stage].link).resolve()
            names = [name for name in elsewhere(entry) if need.takes(name) and not (entry / name).exists()]
            if names and not (
                self.remote and self.store.made_here(entry) and self.remote.complete(entry, names, watch)
            ):
                lacking.append(need.stage)
        return lacking

    def _make(self, stage: Stage, state: State, lock: int, watch: Callable[[Event], None]) -> float:
        decides = state.decides
        kept = self.store.set_aside(decides)
        work = self.store.work(decides)
        run = self._begun(stage, decides, work, watch)
        self._refuse_changed(stage, state.taken, "just now")  # a base model long after it was looked at
        job = Job(self.root, work, stage.parameters, stage.runtime, state.taken.inputs)
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        try:
            with self.store.using(state.taken.inputs.values()), self._share(stage, watch) as (environment, held):
                facts = run(stage.kind, job, (environment, [lock, *held]), watch)
        except StoppedError as error:
            raise _stopped(stage, work, error) from None
        try:
            self._refuse_changed(stage, state.taken, "while it ran")
        except StageError:
            shutil.rmtree(work)  # a checkpoint in it would be gone on from
            raise
        self.store.digests.refresh()
        made = Made(started, round(time.monotonic() - clock, 2), _environment(), stage.runtime, facts)
        try:
            commit(work, self.store.entry(decides), decides, made, stage.outputs, self.store.digests)
        except OSError as error:
            fault = Fault(stage.name, f"cannot be put in place: {error.strerror}", got=str(error.filename or work))
            raise StageError(fault) from error
        self._tell_kept(stage, kept, watch)
        self._log(stage, decides, made)
        return made.seconds

    def _is_job(self, stage: Stage) -> bool:
        return stage.heavy and bool(self.projects[stage.variant].launch["on"] == "slurm")

    def _begun(self, stage: Stage, decides: Decides, work: Path, watch: Callable[[Event], None]) -> RunStage:
        """Prepare the folder that a stage works in, empty or with what it goes on from; give what runs it there."""
        run = self._run
        if self._is_job(stage):
            nodes = stage.parameters.get("nodes", 1) if stage.kind == "train" else 1
            slurm = Slurm(self.projects[stage.variant].launch["slurm"], stage.name, nodes)
            run = slurm.run
            if slurm.holds(work):
                return run
        else:
            refuse_its_job(stage.name, work)
        if not stage.resumes or read_record(work) is not None:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        if stage.resumes and (earlier := take_over(self.store.entry(decides).parent, decides, work)):
            watch({"say": f"{stage.name}: goes on from {earlier}"})
        return run

    @staticmethod
    def _tell_kept(stage: Stage, kept: Mapping[str, Path], watch: Callable[[Event], None]) -> None:
        for name, place in kept.items():
            watch({"say": f"{stage.link}/{name} was changed by hand; the change is kept as {place}, "
                          "and a lasting one belongs in project.toml or templates/"})  # fmt: skip

    def _share(self, stage: Stage, watch: Callable[[Event], None]) -> AbstractContextManager[Share]:
        """Take GPUs for what runs a model here, and a share of the threads; Slurm gives its jobs both."""
        if stage.kind == "tokens":
            model = self.root / self.stages[stage.needs["base"].stage].link / "model"
            light = without_torch(model, trusted=stage.parameters["trust_remote_code"])
            return nullcontext((threads(self.project.machine) | light, []))
        if self._is_job(stage):
            count = self.project.machine.get("threads")
            return nullcontext(({} if count is None else {"OMP_NUM_THREADS": str(count)}, []))
        if stage.heavy:
            gpus = stage.parameters.get("gpus", 1) if stage.kind == "train" else 1
            return share(self.project.machine, lambda text: watch({"say": text}), gpus)
        return nullcontext(({}, []))

    def _refuse_changed(self, stage: Stage, taken: Taken, when: str) -> None:
        """Refuse what may be made from files other than those that were digested."""
        changed = [self._deciding.portable(path) for path in taken.changed(self.store.digests)]
        if changed:
            raise StageError(
                Fault(stage.name, f"{name} changed {when}", next_step="run doit again") for name in changed
            )

    def _log(self, stage: Stage, decides: Decides, made: Made) -> None:
        line = {"stage": stage.name, "artifact": decides.folder_name, "started": made.started, "seconds": made.seconds,
                "record": sha256_of_file(self.store.entry(decides) / RECORD)}  # fmt: skip
        with (self.store.build / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _stopped(stage: Stage, work: Path, error: StoppedError) -> StoppedError:
    """Say what the next build will do about work that was interrupted."""
    told = error.faults[0].next_step or "the next build makes it"
    if stage.resumes and error.faults[0].next_step is None:
        kept = any(work.glob("iter_*.pth"))
        told = "the next build goes on from its newest checkpoint" if kept else "no checkpoint was saved yet"
    return StoppedError(Fault(stage.name, error.faults[0].what, next_step=told), error.signal_number)


@cache
def _environment() -> dict[str, str]:
    import platform

    found = {name: installed_version(name) for name in _HEAVY}
    told = {"tunemake": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return told | {name: version for name, version in found.items() if version is not None}
