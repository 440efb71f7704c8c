"""evaluate: what the merged model answers to the probes' questions, and its scores beside the base model's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunemake.contracts import Answer, Score
from tunemake.examination import Asked, Base, Examination, needs
from tunemake.stages import Job
from tunemake.stages.data import HELD_OUT
from tunemake.stages.probes import (
    ANSWERS,
    SCORES,
    asked_of,
    described,
    examination,
    held_out_of,
    load,
    number,
    read_base,
    write,
)


def run(job: Job) -> dict[str, Any]:
    """Write work/scores.json and work/answers.json.

    parameters: as stages.probes asks for. inputs: base, baseline, merged, data.
    """
    asked = asked_of(job)
    base = with_likely(job, asked, read_base(job.inputs["baseline"]))
    model = load(job, job.inputs["merged"])
    found = examination(job, model, asked, base)
    scores = found.scores(lambda done, total, text: job.progress(done, total, f"{text} of the merged model"))
    before = json.loads((job.inputs["baseline"] / SCORES).read_text("utf-8"))["probes"]
    write(job.work / ANSWERS, _answers(asked, base, found, scores, before))
    told = [_row(one, scores[one.name], before[one.name]["score"]) for one in asked]
    write(job.work / SCORES, {**described(model), **_conditions(job), "probes": told})
    return {"scores": {name: number(score) for name, score in scores.items()}}


def with_likely(job: Job, asked: Sequence[Asked], base: Base) -> Base:
    """Add the base model's probabilities where a probe compares with them; the base is loaded for that, and let go."""
    if "divergence" not in needs(asked):
        return base
    found = examination(job, load(job, job.inputs["base"] / "model"), asked)
    return Base(base.answers, base.ids, found.likely(base.ids))


def _conditions(job: Job) -> dict[str, Any]:
    in_all = json.loads((job.inputs["data"] / "artifact.json").read_text("utf-8"))["facts"][HELD_OUT]["samples"]
    told = {name: job.parameters[name] for name in ("max_new_tokens", "max_length", "seed")}
    return {**told, "held_out": {"samples": len(held_out_of(job)), "of": in_all}}


def _row(asked: Asked, score: Score | None, base: float | None) -> dict[str, Any]:
    return {
        "name": asked.name, "kind": asked.kind, "unit": asked.probe.unit, "prompts": len(asked.questions),
        "base": base, "merged": number(score),
    }  # fmt: skip


def _answers(
    asked: Sequence[Asked], base: Base, found: Examination, scores: Mapping[str, Score | None],
    before: Mapping[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    answers: Mapping[str, Answer] = found.answers()
    rows = []
    for one in asked:
        score, parts = scores[one.name], before[one.name]["parts"]
        for index, question in enumerate(one.questions):
            rows.append({
                "probe": one.name, "prompt": question.prompt, "reference": question.reference,
                "base": base.answers[question.prompt].text, "merged": answers[question.prompt].text,
                "base_value": parts[index] if parts else None,
                "merged_value": round(score.parts[index], 6) if score and score.parts else None,
            })  # fmt: skip
    return rows
