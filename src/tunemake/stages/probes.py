"""What the stages that score a model share: the probes of the job, its held-out samples, and files of scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tunemake.chat_templates import resolved
from tunemake.contracts import Answer, Sample, Score
from tunemake.digests import DIGESTS, Digests
from tunemake.examination import Asked, Base, Examination, Terms
from tunemake.generation import Answers
from tunemake.plugins import Plugins
from tunemake.questions import questions_of, refuse_trained
from tunemake.samples import read_samples
from tunemake.stages import Job
from tunemake.stages.data import HELD_OUT, TRAIN, samples_file

ANSWERS, SCORES = "answers.json", "scores.json"
LIKELY = ".likely"  # a folder of the base's probabilities, while a stage runs
MOST_HELD_OUT = 128  # samples whose loss is taken


def asked_of(job: Job) -> list[Asked]:
    """Give the probes of a job, with their questions; raises SampleError for questions that were trained on.

    parameters: probes (name, kind, parameters and, where it has them, prompts). runtime: plugins, the project's own
    files. inputs: data.
    """
    plugins = Plugins(job.root, job.runtime["plugins"], Digests(job.root / DIGESTS))
    found = []
    for told in job.parameters["probes"]:
        questions = questions_of(job.root, told.get("prompts", []), f"evaluate.probe {told['name']}")
        probe, code = plugins.probe(told["kind"]), list(plugins.probe_code(told["kind"]).values())
        parameters = plugins.probe_parameters(told["kind"], told["parameters"])
        found.append(Asked(told["name"], told["kind"], probe, parameters, questions, code))
    refuse_trained({one.where: one.questions for one in found}, samples_file(job.inputs["data"], TRAIN))
    return found


def held_out_of(job: Job) -> list[Sample]:
    """Give the held-out samples whose loss is taken: the first of them, MOST_HELD_OUT at most."""
    return list(islice(read_samples(samples_file(job.inputs["data"], HELD_OUT)), MOST_HELD_OUT))


def load(job: Job, folder: Path) -> Answers:
    """Load a model folder to be asked by the project's prompt template; seeds torch, for probes that draw."""
    import torch

    torch.manual_seed(job.parameters["seed"])
    template = resolved(job.parameters["prompt_template"], job.inputs["base"] / "model")
    return Answers.load(folder, template, trust_remote_code=job.parameters["trust_remote_code"])


def examination(job: Job, model: Answers, asked: Sequence[Asked], base: Base | None = None) -> Examination:
    """Put a model under the probes. parameters: max_length and max_new_tokens."""
    limits = job.parameters["max_length"], job.parameters["max_new_tokens"]
    return Examination(model, asked, Terms(job.root, held_out_of(job), *limits), base)


def write_base(job: Job, found: Examination) -> None:
    """Write what the base model answers: a list of prompt, answer, finished and token ids."""
    ids = found.said()
    told = [{"prompt": prompt, "answer": answer.text, "finished": answer.finished, "ids": ids[prompt]}
            for prompt, answer in found.answers().items()]  # fmt: skip
    write(job.work / ANSWERS, told)


def read_base(folder: Path) -> Base:
    """Read what write_base wrote."""
    told = json.loads((folder / ANSWERS).read_text("utf-8"))
    return Base(
        {one["prompt"]: Answer(one["answer"], one["finished"]) for one in told},
        {one["prompt"]: one["ids"] for one in told},
    )


def number(score: Score | None) -> float | None:
    """Give a score's value for JSON: None for one that is no finite number."""
    return None if score is None else finite(score.value)


def finite(value: float) -> float | None:
    """Give a number for JSON, which has none that are not finite."""
    return round(value, 6) if math.isfinite(value) else None


def described(model: Answers) -> Mapping[str, Any]:
    """Say by what the model was computed: device and dtype."""
    return {"device": model.model.device.type, "dtype": str(model.model.dtype).removeprefix("torch.")}


def write(path: Path, told: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(told, ensure_ascii=False, indent=1), "utf-8")
