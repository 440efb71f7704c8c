"""dataset: one declared dataset, generated and validated, as samples.jsonl."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tunemake.chat_templates import resolved
from tunemake.contracts import Answer, BaseModelAnswers, Context, GeneratorError, Message, Sample
from tunemake.digests import DIGESTS, Digests
from tunemake.faults import Fault, PluginError, SampleError, TunemakeError
from tunemake.generation import Answers
from tunemake.plugin import DATASETS
from tunemake.plugin_files import place_in
from tunemake.plugins import Plugins
from tunemake.samples import write_checked
from tunemake.stages import Job

SAMPLES, REJECTS = "samples.jsonl", "rejects.jsonl"
_MOST_TOLD = 20


def run(job: Job) -> dict[str, Any]:
    """Write work/samples.jsonl, and work/rejects.jsonl where rows were skipped.

    parameters: generator, parameters, on_bad, seed, and prompt_template where the generator asks for the base model.
    runtime: name (of the dataset), plugins (the project's own plugin files).
    """
    name, asked = job.runtime["name"], job.parameters["generator"]
    where = f"datasets.{name}"
    made = _Made(job, where)
    try:
        tally = write_checked(job.work / SAMPLES, made.samples(asked, job.parameters["parameters"]), where, made.bad)
    except TunemakeError:
        raise
    except GeneratorError as error:
        raise SampleError([*made.rejects.faults, Fault(where, str(error))]) from error
    except Exception as error:  # a stranger's code can raise anything
        traceback.print_exc()  # into the stage's log
        place = place_in(made.code(asked), error)
        if place is None and isinstance(error, OSError):
            raise  # of our own writing: a full disk
        place = place or asked
        raise PluginError(Fault(where, f"failed at {place}: {type(error).__name__}: {error}")) from error
    made.rejects.end()
    if not tally.samples:
        step = made.rejects.first or "check its parameters"
        raise SampleError(Fault(where, "no samples", expected="at least 1", got="0", next_step=step))
    return tally.counts() | {"rejected": made.rejects.count}


class _Rejects:
    """Rows that give no sample: skipped, counted and kept in a file, or the end of the build."""

    def __init__(self, path: Path, on_bad: str) -> None:
        self._path, self._skips = path, on_bad == "skip"
        self.count = 0
        self.faults: list[Fault] = []
        self.first = ""  # said of the first that was skipped

    def add(self, faults: list[Fault], row: object) -> None:
        """Take a row; raises SampleError where so many are wrong that more would only fill the screen."""
        self.count += 1
        if self._skips:
            reasons = [str(fault) for fault in faults]
            self.first = self.first or f"every row is bad; the first: {faults[0].what}"
            line = json.dumps({"reasons": reasons, "row": row}, ensure_ascii=False, default=repr)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
            return
        self.faults += faults
        if len(self.faults) >= _MOST_TOLD:
            raise SampleError(self._told("and maybe more"))

    def end(self) -> None:
        """Raise SampleError for the rows that were taken, where they are not skipped."""
        if self.faults:
            raise SampleError(self._told("in all"))

    def _told(self, more: str) -> list[Fault]:
        step = 'on_bad = "skip" in the dataset\'s table counts such rows and leaves them out'
        rows = "1 bad row" if self.count == 1 else f"{self.count} bad rows"
        return [*self.faults, Fault(self.faults[0].where, f"{rows} {more}", next_step=step)]


class _Made:
    """The samples of the generators that a dataset stands on."""

    def __init__(self, job: Job, where: str) -> None:
        self._job, self._where = job, where
        self._plugins = Plugins(job.root, job.runtime["plugins"], Digests(job.root / DIGESTS))
        self.rejects = _Rejects(job.work / REJECTS, job.parameters["on_bad"])
        self._base = _base(job)
        self._ended: set[str] = set()  # what was read to its end: read again, its bad rows are the ones told already

    def samples(self, generator: str, parameters: Mapping[str, Any]) -> Iterator[Sample]:
        """Give a generator's samples."""
        made = self._plugins.generator(generator)
        if isinstance(parameters, Mapping):
            parameters = self._plugins.with_defaults(generator, parameters)
        key = f"{generator} {parameters!r}"
        given = made.samples(parameters, self._silent_context if key in self._ended else self._context)
        if not isinstance(given, Iterable):
            what = f"{generator}: its method samples gives {type(given).__name__}"
            raise PluginError(Fault(self._where, what, expected="samples one by one, by yield"))
        return self._to_the_end(key, given)

    def _to_the_end(self, key: str, samples: Iterable[Sample]) -> Iterator[Sample]:
        yield from samples
        self._ended.add(key)

    def code(self, generator: str) -> list[Path]:
        """Give the code files of a generator and of those that it uses."""
        used = self._plugins.used(generator, self._job.parameters["parameters"])
        return [file for name, _ in used for file in self._plugins.get(DATASETS, name).code()]

    def bad(self, place: str, faults: list[Fault], row: object) -> None:
        """Take a sample that is none."""
        number = place.removeprefix(f"{self._where}: ")
        self.rejects.add([replace(fault, where=self._where, what=f"{number}: {fault.what}") for fault in faults], row)

    @cached_property
    def _context(self) -> Context:
        def progress(done: int, total: int) -> None:
            self._job.progress(done, total, self._job.runtime["name"])

        def bad(place: str, reason: str, row: object = None) -> None:
            self.rejects.add([Fault(self._where, f"{place}: {reason}")], row)

        return Context(
            self._job.root, self._job.parameters["seed"], self._base, progress, self._job.say, bad, self.samples
        )

    @cached_property
    def _silent_context(self) -> Context:
        return replace(self._context, say=_silent, bad=_silent)


def _silent(*_: object) -> None:
    """Take what was told before."""


def _base(job: Job) -> BaseModelAnswers | None:
    if "base" not in job.inputs:
        return None
    return _Base(job.inputs["base"] / "model", job.parameters["prompt_template"], job.parameters["trust_remote_code"])


class _Base:
    """The base model, loaded once, at the first question."""

    def __init__(self, folder: Path, template: dict[str, Any], trust_remote_code: bool) -> None:  # noqa: FBT001
        self._of = folder, template, trust_remote_code

    def answer(self, conversations: Iterable[Sequence[Message]], max_new_tokens: int) -> Iterator[Answer]:
        yield from self._model.of(conversations, max_new_tokens)

    @cached_property
    def _model(self) -> Answers:
        folder, template, trusted = self._of
        return Answers.load(folder, resolved(template, folder), trust_remote_code=trusted)
