"""What probes ask: prompts from a list or a file, with the answers that are right, none of them trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunemake.contracts import Question
from tunemake.faults import Fault, SampleError
from tunemake.samples import folded, prompts_of, read_samples

Told = str | Sequence[str | Mapping[str, str]]  # as project.toml gives them


def questions_of(root: Path, told: Told, where: str) -> list[Question]:
    """Give the questions that a probe's `prompts` names.

    told: a list of prompts or tables of prompt and reference, or a file below root: one prompt a line, lines with #
    left out, or in a file *.jsonl such tables. where: the probe, for faults. Raises SampleError with every fault.
    """
    if not isinstance(told, str):
        return [_question(one) for one in told]
    lines = (root / told).read_text("utf-8-sig").split("\n")
    if told.endswith(".jsonl"):
        found, faults = _from_json(lines, told)
        if faults:
            raise SampleError(faults)
    else:
        found = [Question(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise SampleError(Fault(where, f"{told}: no prompts", expected="one prompt a line"))
    return found


def refuse_trained(asked: Mapping[str, Iterable[Question]], train: Path) -> None:
    """Raise SampleError for each question that the training samples hold. asked: by what it is told as.

    train: the file of samples.
    """
    wanted = {folded(question.prompt) for questions in asked.values() for question in questions}
    trained = wanted.intersection(prompts_of(read_samples(train)))
    faults = [
        Fault(where, f"trained on: {question.prompt}", expected="prompts that are not in the training data")
        for where, questions in asked.items()
        for question in questions
        if folded(question.prompt) in trained
    ]
    if faults:
        raise SampleError(faults)


def _question(told: str | Mapping[str, str]) -> Question:
    return Question(told) if isinstance(told, str) else Question(told["prompt"], told.get("reference"))


def _from_json(lines: Iterable[str], name: str) -> tuple[list[Question], list[Fault]]:
    found, faults = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        told = _parsed(line)
        if isinstance(told, Mapping) and told.get("prompt") and set(map(type, told.values())) <= {str}:
            found.append(_question(told))
        else:
            expected = '{"prompt": "…", "reference": "…"}, the reference left out where there is none'
            faults.append(Fault(f"{name}:{number}", "no question", expected=expected, got=line.strip()[:60]))
    return found, faults


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
