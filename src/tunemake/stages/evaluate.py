"""evaluate: what the merged model answers to the probes' questions, and its scores beside the base model's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from tunemake.artifacts import read_record
from tunemake.contracts import Answer, Score
from tunemake.dequantised_base import dequantise_loaded
from tunemake.engines.quantised_layers import quantised_weights
from tunemake.examination import Asked, Base, Examination, needs
from tunemake.faults import StageError
from tunemake.generation import Answers
from tunemake.logits_proof import both_logits, held_against
from tunemake.model_folder import read_config
from tunemake.samples import read_samples
from tunemake.stages import Job
from tunemake.stages.data import HELD_OUT, TRAIN, samples_file
from tunemake.stages.probes import (
    ANSWERS,
    LIKELY,
    SCORES,
    asked_of,
    described,
    examination,
    finite,
    held_out_of,
    load,
    number,
    read_base,
    write,
)

_PROVED, _LONGEST_ROW = 4, 128  # samples, and tokens of each, at which logits are compared


def run(job: Job) -> dict[str, Any]:
    """Write work/scores.json and work/answers.json.

    parameters: as stages.probes asks for. inputs: base, baseline, merged, data and, unless all weights were trained,
    adapter. Raises StageError where the merged model does not answer as base and adapter do.
    """
    asked = asked_of(job)
    base, both = _of_base(job, asked, read_base(job.inputs["baseline"]))
    model = load(job, job.inputs["merged"])
    proof: dict[str, Any] = {}
    if both:
        config = read_config(job.inputs["merged"])
        stored = config.get("dtype") or config.get("torch_dtype") or "float32"
        faults, proof = held_against(both, model.model, _rows(job, model), stored=stored)
        if faults:
            raise StageError(faults)
    found = examination(job, model, asked, base)
    scores = found.scores(lambda done, total, text: job.progress(done, total, f"{text} of the merged model"))
    before = json.loads((job.inputs["baseline"] / SCORES).read_text("utf-8"))["probes"]
    write(job.work / ANSWERS, _answers(asked, base, found, scores, before))
    told = [_row(one, scores[one.name], before[one.name]["score"]) for one in asked]
    write(job.work / SCORES, {**described(model), **_conditions(job), "probes": told})
    return {"scores": {name: number(score) for name, score in scores.items()}, "proof": proof}


def _of_base(job: Job, asked: Sequence[Asked], base: Base) -> tuple[Base, list[tuple[Any, Any]]]:
    """Ask the base model what must be compared with: probabilities for probes, logits with the adapter and without.

    It is loaded only where something asks for it, and let go.
    """
    if "divergence" not in needs(asked) and "adapter" not in job.inputs:
        return base, []
    model = load(job, job.inputs["base"] / "model")
    likely = examination(job, model, asked).likely(base.ids, job.work / LIKELY)
    both: list[tuple[Any, Any]] = []
    if "adapter" in job.inputs:
        from peft import PeftModel

        rows = _rows(job, model)
        _as_merged_onto(job, model.model)
        both = both_logits(PeftModel.from_pretrained(model.model, job.inputs["adapter"]), rows)
    return Base(base.answers, base.ids, likely), both


def _as_merged_onto(job: Job, base: Any) -> None:
    """Dequantise the base where the adapter was merged onto that: its own weights would answer otherwise."""
    told = (read_record(job.inputs["merged"]) or {})["parameters"]
    if "onto" in told:
        trusted = job.parameters["trust_remote_code"]
        names = quantised_weights(job.inputs["base"] / "model", trust_remote_code=trusted)
        dequantise_loaded(base, names, told["precision"])


def _rows(job: Job, model: Answers) -> list[list[int]]:
    """Give the token ids of a few samples of the training data, to compare logits at."""
    samples = islice(read_samples(samples_file(job.inputs["data"], TRAIN)), _PROVED)
    return [model.ids_of(sample["messages"])[:_LONGEST_ROW] for sample in samples]


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
                "merged_value": finite(score.parts[index]) if score and score.parts else None,
            })  # fmt: skip
    return rows
