"""What probes ask: prompts from a list or a file, with the answers that are right, none of them trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunemake.contracts import Question
from tunemake.faults import Fault, SampleError, did_you_mean
from tunemake.findings import excerpt
from tunemake.samples import folded, prompts_of, read_samples

_KEYS = ("prompt", "reference")
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


def asked_again(questions: Sequence[Question]) -> str | None:
    """Say how many questions repeat another's prompt, each of which counts in the score; None where none does."""
    counts = Counter(question.prompt for question in questions)
    more = len(questions) - len(counts)
    if not more:
        return None
    first = next(prompt for prompt, count in counts.items() if count > 1)
    return f'{more} of {len(questions)} prompts repeat others, such as "{excerpt(first)}"; each counts in the score'


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
    found: list[Question] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        told = _parsed(line)
        if wrong := _row_faults(told, line, f"{name}:{number}"):
            faults += wrong
        else:
            found.append(_question(told))
    return found, faults


def _row_faults(told: Any, line: str, where: str) -> list[Fault]:
    unknown = [key for key in told if key not in _KEYS] if isinstance(told, Mapping) else []
    if unknown:
        steps = {key: did_you_mean(key, _KEYS) or f"known are {', '.join(_KEYS)}" for key in unknown}
        return [Fault(f"{where}: {key}", "unknown key", next_step=step) for key, step in steps.items()]
    if isinstance(told, Mapping) and told.get("prompt") and set(map(type, told.values())) <= {str}:
        return []
    expected = '{"prompt": "…", "reference": "…"}, the reference left out where there is none'
    return [Fault(where, "no question", expected=expected, got=line.strip()[:60])]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
