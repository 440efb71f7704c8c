"""baseline: what the base model answers to the probes' questions, and its scores; asked once for all trainings."""

from __future__ import annotations

from typing import Any

from tunemake.questions import asked_again
from tunemake.stages import Job
from tunemake.stages.probes import SCORES, asked_of, described, examination, finite, load, number, write, write_base


def run(job: Job) -> dict[str, Any]:
    """Write work/answers.json and work/scores.json.

    parameters: as stages.probes asks for. inputs: base, data.
    """
    asked = asked_of(job)
    for one in asked:
        if again := asked_again(one.questions):
            job.say(f"{one.where}: {again}")
    model = load(job, job.inputs["base"] / "model")
    found = examination(job, model, asked)
    scores = found.scores(lambda done, total, text: job.progress(done, total, f"{text} of the base model"))
    write_base(job, found)
    told = {
        **described(model),
        "probes": {
            name: {"score": number(score), "parts": [finite(part) for part in score.parts] if score else []}
            for name, score in scores.items()
        },
    }
    write(job.work / SCORES, told)
    return {"scores": {name: number(score) for name, score in scores.items()}}
