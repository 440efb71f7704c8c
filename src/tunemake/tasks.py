"""Stages to doit tasks; the only importer of doit besides commands/."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit.dependency import MD5Checker
from doit.exceptions import InvalidDodoFile, TaskFailed
from doit.reporter import ConsoleReporter

from tunemake.doit_state import StateFile
from tunemake.faults import StoppedError, TunemakeError
from tunemake.glance import Glance, noting, stamps_stand
from tunemake.interrupts import end_in_order, stop

if TYPE_CHECKING:  # a build with nothing to do needs none of it
    from tunemake.building import Builder
    from tunemake.stage import Stage


def task_tunemake() -> Iterator[dict[str, Any]]:
    """Give doit the project's stages as tasks; a fault in the project ends doit with its line, and code 3."""
    end_in_order()
    Work.current = work = Work(Path.cwd())
    try:
        described = work.tasks()
    except TunemakeError as error:
        raise InvalidDodoFile(str(error)) from None
    StateFile.stages = frozenset(told["stage"] for told in described if "stage" in told)
    for told in described:
        yield _task(work, told) if "stage" in told else told


class Work:
    """A project at work: loaded only where a glance does not tell that all is as it was."""

    current: Work | None = None

    def __init__(self, root: Path) -> None:
        self.root, self._glance = root, Glance(root)

    @cached_property
    def builder(self) -> Builder:
        """The project's stages; raises what load_builder does."""
        from tunemake.loading import load_builder

        return load_builder(self.root)

    def tasks(self) -> list[dict[str, Any]]:
        """Describe the tasks in JSON values; raises TunemakeError for what is wrong with the project."""
        known = self._glance.tasks()
        if known is not None:
            return known
        with noting(self.root) as notes:
            builder = self.builder
            groups = [{"basename": name, "name": None, "doc": doc} for name, doc in _groups(builder).items()]
            described = [*groups, *(_described(builder, stage) for stage in builder.stages.values())]
            in_sight = builder.can_be_glanced_at()
        if in_sight:
            self._glance.loaded(described, notes)
        return described

    def judge(self, name: str) -> tuple[list[str], bool]:
        """Give why a stage is stale, and whether the store holds it; raises TunemakeError where nobody can say."""
        if self._glance.is_fresh(name):
            return [], True
        with noting(self.root) as notes:
            try:
                state = self.builder.state(name)
            finally:
                self.builder.store.digests.save()
        if state.fresh:
            self._glance.judged_fresh(name, notes)
        return state.reasons, state.in_store

    def remember(self) -> None:
        """Keep what was looked at for the next build."""
        self._glance.save()


def _groups(builder: Builder) -> dict[str, str]:
    """Name the tasks that stand for several: one for all datasets, one for a stage that each variant has its own of."""
    several = {stage.name.partition(":")[0]: stage.doc for stage in builder.stages.values() if ":" in stage.name}
    groups = {name: f"{doc}, of every variant" for name, doc in several.items()}
    return groups | {"dataset": "the samples of every dataset"}


def _described(builder: Builder, stage: Stage) -> dict[str, Any]:
    basename, _, name = stage.name.partition(":")
    needed = [builder.stages[need.stage] for need in stage.needs.values()]
    task = {
        "basename": basename,
        "doc": stage.doc,
        "stage": stage.name,
        "links": list(stage.links),
        "file_dep": [f"{other.link}/{other.outputs[0]}" for other in needed],
        "task_dep": [other.name for other in needed],
        "targets": [f"{stage.link}/{name}" for name in (*stage.outputs, "artifact.json")],
        "meta": {"tunemake_link": stage.link, "links": list(stage.links), "kind": stage.kind, "variant": stage.variant},
    }
    return task | ({"name": name} if name else {})


def _task(work: Work, described: Mapping[str, Any]) -> dict[str, Any]:
    task = {key: value for key, value in described.items() if key not in {"stage", "links"}}
    stage = described["stage"]
    return task | {
        "actions": [(_make, [], {"work": work, "name": stage})],
        "uptodate": [(_is_fresh, [work, stage])],
        "clean": [(_remove_link, [work.root / link]) for link in described["links"]],
        "verbosity": 2,
        "io": {"capture": False},
    }


def _is_fresh(task: Any, work: Work, name: str) -> bool:
    try:
        why, in_store = work.judge(name)
    except TunemakeError:
        task.meta["why"] = None  # _make meets it again and tells it
        return False
    task.meta |= {"why": why, "in_store": in_store}
    if not why and task.meta["kind"] == "gate" and _fails(work, name, task.meta["tunemake_link"]):
        task.meta |= {"why": ["it failed before, and nothing changed"], "in_store": False, "told": True}
        return False
    return not why


def _fails(work: Work, name: str, link: str) -> bool:
    from tunemake.gating import failure

    return failure(work.root, name, link) is not None


def _make(task: Any, work: Work, name: str) -> TaskFailed | None:
    # Called though fresh: doit was told to run always.
    from tunemake.progress import Watch

    anew = task.meta.get("why") == []
    try:
        if not task.meta.get("told"):
            with Watch(name) as watch:
                task.meta["seconds"] = work.builder.make(name, anew=anew, watch=watch)
    except StoppedError as error:
        sys.stderr.write(f"{error}\n")
        raise stop(error.signal_number) from None
    except TunemakeError as error:
        return TaskFailed(str(error))
    if task.meta["kind"] != "gate":
        return None
    from tunemake.gating import judged

    told = judged(work.builder, name)
    return None if told is None else TaskFailed(told)


def _remove_link(link: Path) -> None:
    if link.is_symlink():
        link.unlink()


class Checker(MD5Checker):  # type: ignore[misc]
    """doit's own check of files, but a stage's files are left to the stage's check."""

    def check_modified(self, file_path: str, file_stat: Any, state: Any) -> bool:
        """Say whether a file differs from the state noted of it."""
        return state is not True and bool(super().check_modified(file_path, file_stat, state))

    def get_state(self, dep: str, current_state: Any) -> Any:
        """Give the state to note of a file; None to keep what is noted."""
        return None if current_state is True else super().get_state(dep, current_state)


class Reporter(ConsoleReporter):  # type: ignore[misc]
    """doit's console report, with the reason of each rebuild, the time that it took, and what came of it."""

    desc = "console output with reasons and times"

    def initialize(self, tasks: Mapping[str, Any], selected_tasks: Any) -> None:  # noqa: ARG002 - doit's
        """Start counting."""
        self._ran: dict[str, float | None] = {}
        self._fresh: set[str] = set()
        self._tasks = tasks

    def execute_task(self, task: Any) -> None:
        """Say that a task runs, and why."""
        if "tunemake_link" not in (task.meta or {}):
            super().execute_task(task)
            return
        why = task.meta.get("why")
        told = "asked for" if why == [] else "; ".join(why or [])
        if task.meta.get("in_store") and why:
            told += " (made before)"
        self.write(f".  {task.title()}: {told}\n")

    def add_success(self, task: Any) -> None:
        """Say how long it took."""
        seconds = self._ran[task.name] = (task.meta or {}).get("seconds")
        if seconds is not None:
            self.write(f"   {task.title()} made in {seconds:.1f} s\n")

    def skip_uptodate(self, task: Any) -> None:
        """Say that a task has nothing to do."""
        super().skip_uptodate(task)
        self._fresh.add(task.name)

    def _write_failure(self, result: Mapping[str, Any], write_exception: bool = True) -> None:  # noqa: FBT001, FBT002
        if "tunemake_link" in (result["task"].meta or {}) and isinstance(result["exception"], TaskFailed):
            self.write(f"{result['exception'].message}\n")
        else:
            super()._write_failure(result, write_exception)

    def complete_run(self) -> None:
        """Sum up what was made."""
        super().complete_run()
        if Work.current is not None:
            Work.current.remember()
        made = {name: seconds for name, seconds in self._ran.items() if seconds is not None}
        if made:
            told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in made.items())
            self.write(f"made {len(made)} in {sum(made.values()):.1f} s: {told}\n")
        # Of this run only: scores of another model would be taken for the ones of the model just made.
        ran = [task.meta for name, task in self._tasks.items() if name in self._ran and "kind" in (task.meta or {})]
        links = {(meta["kind"], meta["variant"]): meta["tunemake_link"] for meta in ran}
        if any(failure["task"].meta.get("kind") != "gate" for failure in self.failures):
            return
        self._lock()
        self._tell_scores({variant: link for (kind, variant), link in links.items() if kind == "evaluate"})
        for (kind, variant), link in links.items():
            if kind == "merge":
                from tunemake.outcome import way_on

                self.write(way_on(link, self._verdict(variant)))
            if kind == "export":
                self.write(f"exported to:  {link}\n")

    def _verdict(self, variant: str) -> Mapping[str, Any] | None:
        """Give what a variant's gate said in this run; None where it was not asked."""
        from tunemake.withholding import verdict

        asked = self._ran.keys() | self._fresh
        for name, task in self._tasks.items():
            meta = task.meta or {}
            # Where one gate fails, the others are asked too: see gating.judged.
            if (meta.get("kind"), meta.get("variant")) == ("gate", variant) and (name in asked or self.failures):
                return verdict(Path(meta["tunemake_link"]))
        return None

    def _tell_scores(self, evaluated: Mapping[str, str]) -> None:
        from tunemake.outcome import score_table
        from tunemake.variants import DEFAULT

        if DEFAULT in evaluated:
            scores = json.loads((Path(evaluated[DEFAULT]) / "scores.json").read_text("utf-8"))
            self.write("\n" + score_table(scores, self._verdict(DEFAULT)))
        elif evaluated:
            from tunemake.comparison import as_text, compared

            self.write("\n" + as_text(compared(Path.cwd(), self._variants())) + "\n")

    def _lock(self) -> None:
        """Write tunemake.lock, where a stage was made or all were looked at and it is not known to stand."""
        stages = {name: task for name, task in self._tasks.items() if "tunemake_link" in (task.meta or {})}
        names = ["tunemake.lock", *(link for task in stages.values() for link in task.meta["links"])]
        ran, whole = stages.keys() & self._ran, stages.keys() <= self._ran.keys() | self._fresh
        if Work.current is None or not (ran or (whole and not stamps_stand(Work.current.root, names))):
            return
        from tunemake.lock import after_build

        try:
            self.write(after_build(Work.current.builder))
        except TunemakeError as error:  # the project was edited meanwhile
            self.write(f"{error}\n")

    def _variants(self) -> list[str]:
        return list(dict.fromkeys(task.meta["variant"] for task in self._tasks.values() if "kind" in (task.meta or {})))


DOIT_CONFIG = {
    "backend": "tunemake",
    "check_file_uptodate": Checker,
    "reporter": Reporter,
    "verbosity": 2,
}
