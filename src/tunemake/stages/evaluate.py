"""evaluate: what base and merged model answer to prompts never trained on, and the rates that follow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunemake.chat_templates import resolved
from tunemake.contracts import Message
from tunemake.faults import Fault, SampleError
from tunemake.generation import Answers
from tunemake.samples import folded, prompts_of, read_samples
from tunemake.stages import Job
from tunemake.stages.data import TRAIN, samples_file

SCORES, ANSWERS = "scores.json", "answers.json"


def run(job: Job) -> dict[str, Any]:
    """Write work/scores.json and work/answers.json.

    parameters: identity and unrelated (a list of prompts or the path of a text file), expect (words of the
    identity), max_new_tokens, prompt_template, trust_remote_code. inputs: base, merged, data.
    """
    told = {kind: job.parameters[kind] for kind in ("identity", "unrelated")}
    asked = refuse_trained(job.root, told, job.inputs["data"])
    answers: dict[str, dict[str, list[str]]] = {}
    for model, folder in _models(job).items():
        answers[model] = _answers(job, model, folder, asked)
    scores = {model: rates(given, job.parameters["expect"]) for model, given in answers.items()}
    every = [
        {"kind": kind, "prompt": prompt, **{model: answers[model][kind][index] for model in answers}}
        for kind, prompts in asked.items()
        for index, prompt in enumerate(prompts)
    ]
    (job.work / ANSWERS).write_text(json.dumps(every, ensure_ascii=False, indent=1), "utf-8")
    counts = {kind: len(prompts) for kind, prompts in asked.items()}
    (job.work / SCORES).write_text(json.dumps({"prompts": counts, **scores}, indent=1), "utf-8")
    return {"prompts": counts, **scores}


def rates(answers: dict[str, list[str]], expect: Sequence[str]) -> dict[str, float | None]:
    """Give identity_rate and leak_rate: shares of answers that name one of the expected words; None of nothing."""

    def share(given: list[str]) -> float | None:
        named = [any(word.casefold() in answer.casefold() for word in expect) for answer in given]
        return round(sum(named) / len(named), 4) if named else None

    return {"identity_rate": share(answers["identity"]), "leak_rate": share(answers["unrelated"])}


def refuse_trained(root: Path, told: Mapping[str, str | list[str]], data: Path) -> dict[str, list[str]]:
    """Give the prompts of each kind; told: the list itself, or a text file with one a line.

    Raises SampleError for each prompt that is in the training data of the folder `data`, and for a file without any.
    """
    asked = {kind: _prompts(root, kind, value) for kind, value in told.items()}
    wanted = {folded(prompt) for prompts in asked.values() for prompt in prompts}
    trained = wanted.intersection(prompts_of(read_samples(samples_file(data, TRAIN))))
    faults = [
        Fault(f"evaluate.{kind}", f"trained on: {prompt}", expected="prompts that are not in the training data")
        for kind, prompts in asked.items()
        for prompt in prompts
        if folded(prompt) in trained
    ]
    if faults:
        raise SampleError(faults)
    return asked


def _prompts(root: Path, kind: str, told: str | list[str]) -> list[str]:
    if not isinstance(told, str):
        return list(told)
    lines = (root / told).read_text("utf-8-sig").splitlines()
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise SampleError(Fault(f"evaluate.{kind}", f"{told}: no prompts", expected="one prompt a line"))
    return found


def _models(job: Job) -> dict[str, Path]:
    return {"base": job.inputs["base"] / "model", "merged": job.inputs["merged"]}


def _answers(job: Job, name: str, folder: Path, asked: dict[str, list[str]]) -> dict[str, list[str]]:
    trusted = job.parameters["trust_remote_code"]
    template = resolved(job.parameters["prompt_template"], job.inputs["base"] / "model")
    model = Answers(folder, template, trust_remote_code=trusted)
    every = [prompt for prompts in asked.values() for prompt in prompts]
    conversations: list[list[Message]] = [[{"role": "user", "content": prompt}] for prompt in every]
    given: list[str] = []
    for answer in model.of(conversations, job.parameters["max_new_tokens"]):
        given.append(answer.text)
        job.progress(len(given), len(every), f"answers of the {name} model")
    first = len(asked["identity"])
    return {"identity": given[:first], "unrelated": given[first:]}
