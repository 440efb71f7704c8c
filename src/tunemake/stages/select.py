"""select: every kept checkpoint scored, and the one chosen that becomes the model; the base is loaded once."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tunemake import gate
from tunemake.adapters import adapted, load_whole
from tunemake.contracts import Loss
from tunemake.engines.xtuner import checkpoints, iteration_of
from tunemake.examination import Base, Examination
from tunemake.faults import StageError
from tunemake.gate import Bound
from tunemake.generation import Answers
from tunemake.stages import Job
from tunemake.stages.adapter import write_adapter
from tunemake.stages.probes import LIKELY, SCORES, asked_of, examination, finite, load, number, read_base, write

CHECKPOINT = "checkpoint"
EARLIEST, BEST = "the earliest that meets all probes", "none meets all probes; the best by their order"
REQUIRED = "none meets all probes; of those that meet the required ones, the best by their order"
ONLY, LAST = "the only one that was kept", "the last"


def run(job: Job) -> dict[str, Any]:
    """Write work/checkpoint, the name of the chosen one, and work/scores.json, every checkpoint's scores.

    parameters: as stages.probes asks for; bounds; order (names of probes); method, lora. inputs: base, baseline,
    data, train.
    """
    kept = checkpoints(job.inputs["train"])
    rows = [_row(checkpoint) for checkpoint in kept]
    bounds = [bound for bound in gate.bounds_of(job.parameters["bounds"]) if bound.told()]
    why = ONLY if len(kept) == 1 else LAST
    chosen = rows[-1]
    if len(kept) > 1 and bounds:
        rows = [_row(checkpoint, found) for checkpoint, found in _examined(job, kept)]
        chosen, why = choose(rows, bounds, job.parameters["order"])
    write(job.work / SCORES, {"checkpoints": rows, "chosen": chosen["checkpoint"], "why": why})
    (job.work / CHECKPOINT).write_text(chosen["checkpoint"], "utf-8")
    job.say(f"{chosen['checkpoint']}: {why}")
    return {"checkpoint": chosen["checkpoint"], "why": why}


def choose(rows: Sequence[dict[str, Any]], bounds: Iterable[Bound], order: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Choose a row and say why: the earliest that keeps to all bounds, else the best by order; marks what `meets`.

    rows: in the order of training, each with `scores` by probe. order: names of probes, the most important first; the
    others follow. One that meets all that is required goes before any that does not. Better is what misses its bound by
    less; of equal ones the earlier.
    """
    named = {bound.name: bound for bound in bounds}
    ranked = [*[name for name in order if name in named], *[name for name in named if name not in order]]
    for row in rows:
        row["meets"] = all(_misses(row, named[name]) == 0 for name in ranked)
    met = [row for row in rows if row["meets"]]
    if met:
        return met[0], EARLIEST
    passing = [row for row in rows if all(_misses(row, named[n]) == 0 for n in ranked if named[n].required)]
    best = min(passing or rows, key=lambda row: [_misses(row, named[name]) for name in ranked])
    return best, REQUIRED if passing else BEST


def _misses(row: Mapping[str, Any], bound: Bound) -> float:
    score = row["scores"][bound.name]
    return float("inf") if score is None else bound.misses(score)


def _row(checkpoint: Path, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    told = found or {"held_out_loss": None, "scores": {}}
    return {"checkpoint": checkpoint.name, "iteration": iteration_of(checkpoint), **told, "meets": None}


def _examined(job: Job, kept: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    asked = asked_of(job)
    base = read_base(job.inputs["baseline"])
    model = load(job, job.inputs["base"] / "model")
    base = Base(base.answers, base.ids, examination(job, model, asked).likely(base.ids, job.work / LIKELY))
    swap = _full if job.parameters["method"] == "full" else _adapted
    for checkpoint in kept:
        with ExitStack() as stack:
            try:
                tuned = stack.enter_context(swap(job, model, checkpoint))
            except StageError as error:  # a training that diverged may have been good before
                job.say(f"{checkpoint.name} cannot become the model: {error}")
                yield checkpoint, {"held_out_loss": None, "scores": {one.name: None for one in asked}}
                continue
            found = examination(job, tuned, asked, base)
            scores = found.scores(partial(_tell, job, checkpoint.name))
            told = {name: number(score) for name, score in scores.items()}
            yield checkpoint, {"held_out_loss": _loss(found), "scores": told}


def _tell(job: Job, checkpoint: str, done: int, total: int, text: str) -> None:
    job.progress(done, total, f"{text} of {checkpoint}")


@contextmanager
def _adapted(job: Job, model: Answers, checkpoint: Path) -> Iterator[Answers]:
    """Put a checkpoint's adapter on the base for a while."""
    folder = job.work / ".adapter"
    write_adapter(checkpoint, job.parameters["lora"], "base", folder)
    with adapted(model, folder) as tuned:
        yield tuned
    shutil.rmtree(folder)


@contextmanager
def _full(job: Job, model: Answers, checkpoint: Path) -> Iterator[Answers]:  # noqa: ARG001 - as _adapted
    """Give the model a checkpoint's weights, which the next one replaces."""
    load_whole(model, checkpoint)
    yield model


def _loss(found: Examination) -> float | None:
    losses: Sequence[Loss] = found.losses()
    tokens = sum(loss.tokens for loss in losses)
    return finite(sum(loss.nats for loss in losses) / tokens) if tokens else None
