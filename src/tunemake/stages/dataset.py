"""dataset: one declared dataset, generated and validated, as samples.json."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tunemake.contracts import Answer, BaseModelAnswers, Context, Message
from tunemake.digests import DIGESTS, Digests
from tunemake.faults import Fault, PluginError, SampleError, TunemakeError
from tunemake.generation import Answers
from tunemake.plugins import DATASETS, Plugins, place_in
from tunemake.samples import count_samples, validated, write_samples
from tunemake.stages import Job

SAMPLES = "samples.json"


def run(job: Job) -> dict[str, Any]:
    """Write work/samples.json.

    parameters: generator, parameters, seed, and prompt_template where the generator asks for the base model.
    runtime: name (of the dataset), plugins (the project's own plugin files).
    """
    name = job.runtime["name"]
    plugins = Plugins(job.root, job.runtime["plugins"], Digests(job.root / DIGESTS))
    generator = plugins.generator(job.parameters["generator"])
    context = Context(
        job.root, job.parameters["seed"], _base(job), lambda done, total: job.progress(done, total, name), job.say
    )
    where = f"datasets.{name}"
    try:
        samples = list(validated(generator.samples(job.parameters["parameters"], context), where))
    except TunemakeError:
        raise
    except Exception as error:  # a stranger's code can raise anything
        code = plugins.get(DATASETS, job.parameters["generator"]).code()
        traceback.print_exc()  # into the stage's log
        place = place_in(code, error) or job.parameters["generator"]
        raise PluginError(Fault(where, f"failed at {place}: {type(error).__name__}: {error}")) from error
    if not samples:
        fault = Fault(where, "no samples", expected="at least 1", got="0", next_step="check its parameters")
        raise SampleError(fault)
    write_samples(job.work / SAMPLES, samples)
    return count_samples(samples)


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
        return Answers(folder, template, trust_remote_code=trusted)
