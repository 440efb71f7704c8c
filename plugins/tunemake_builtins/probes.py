"""The probes that ship: what a model answers, how far it went from its base, and how well it knows held-out samples."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunemake.contracts import Answer, Examined, ProbeError, Score

_SHARE = "share of answers"


def _schema(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": False,
        "required": list(required), "properties": dict(properties),
    }  # fmt: skip


_WORDS = {
    "type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1,
    "description": "words, one of which is looked for; small and capital letters count the same",
}  # fmt: skip


def _mean(parts: Sequence[float]) -> Score:
    return Score(sum(parts) / len(parts), parts)


def _share(answers: Sequence[Answer], holds: Callable[[str], bool]) -> Score:
    return _mean([float(holds(answer.text)) for answer in answers])


class Contains:
    """A probe: the share of answers that hold one of some words."""

    summary = "share of answers that hold one of some words"
    version, unit, needs = "1", _SHARE, ("questions",)
    parameters: Mapping[str, Any] = _schema({"words": _WORDS}, ["words"])

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:
        """Give the share."""
        words = [word.casefold() for word in parameters["words"]]
        return _share(model.answers(), lambda text: any(word in text.casefold() for word in words))


class NotContains:
    """A probe: the share of answers that hold none of some words."""

    summary = "share of answers that hold none of some words"
    version, unit, needs = "1", _SHARE, ("questions",)
    parameters: Mapping[str, Any] = _schema({"words": _WORDS}, ["words"])

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:
        """Give the share."""
        words = [word.casefold() for word in parameters["words"]]
        return _share(model.answers(), lambda text: not any(word in text.casefold() for word in words))


class Regex:
    """A probe: the share of answers in which a regular expression is found."""

    summary = "share of answers in which a regular expression is found"
    version, unit, needs = "1", _SHARE, ("questions",)
    parameters: Mapping[str, Any] = _schema(
        {"pattern": {"type": "string", "minLength": 1, "format": "regex", "description": "in Python's syntax"}},
        ["pattern"],
    )

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:
        """Give the share."""
        try:
            pattern = re.compile(parameters["pattern"])
        except re.error as error:
            raise ProbeError(f"pattern: not a regular expression: {error}") from error
        return _share(model.answers(), lambda text: pattern.search(text) is not None)


class ExactMatch:
    """A probe: the share of answers that are the reference, spaces, case and punctuation aside."""

    summary = "share of answers that are the reference answer; spaces, case and punctuation do not count"
    version, unit, needs = "1", _SHARE, ("questions", "references")
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the share."""
        pairs = zip(model.answers(), model.questions, strict=True)
        return _mean([float(_words(answer.text) == _words(question.reference or "")) for answer, question in pairs])


class TokenF1:
    """A probe: how far the words of answer and reference are the same (F1, as SQuAD's evaluation counts it).

    Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1. A Chinese or
    Japanese character counts as a word.
    """

    summary = "F1 of the words that answer and reference answer share, mean over the questions"
    version, unit, needs = "1", "F1", ("questions", "references")
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the mean."""
        return _mean([_f1(answer.text, q.reference or "") for answer, q in zip(model.answers(), model.questions,
                                                                               strict=True)])  # fmt: skip


class AnswerLength:
    """A probe: how long the answers are."""

    summary = "length of the answers in characters, mean over the questions"
    version, unit, needs = "1", "characters", ("questions",)
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the mean."""
        return _mean([float(len(answer.text)) for answer in model.answers()])


class Finished:
    """A probe: the share of answers that ended before the longest length, which a model without an end does not."""

    summary = "share of answers that the model itself ended, within max_new_tokens"
    version, unit, needs = "1", _SHARE, ("questions",)
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the share."""
        return _mean([float(answer.finished) for answer in model.answers()])


class Distinct:
    """A probe: how little the answers repeat themselves (distinct-n).

    Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models": different n-grams
    divided by all. In each answer by itself, so that a model which says one good thing twice is not blamed.
    """

    summary = "distinct-n: share of an answer's n-grams that are different, mean over the questions; low is repetition"
    version, unit, needs = "1", "share of n-grams", ("questions",)
    parameters: Mapping[str, Any] = _schema(
        {"n": {"type": "integer", "minimum": 1, "default": 2, "description": "words in an n-gram"}}
    )

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:
        """Give the mean."""
        return _mean([_distinct(_words(answer.text), parameters["n"]) for answer in model.answers()])


class Changed:
    """A probe: the share of answers that are not the base model's own."""

    summary = "share of answers that differ from the base model's; 0 is a model that did not change"
    version, unit, needs = "1", _SHARE, ("questions", "base")
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the share."""
        pairs = zip(model.answers(), model.base_answers(), strict=True)
        return _mean([float(answer.text != base.text) for answer, base in pairs])


class Retention:
    """A probe: how far the model went from its base where it should have stayed (KL divergence)."""

    summary = "KL divergence from the base model on the base's own answers, in nats a token; 0 is the base itself"
    version, unit, needs = "1", "nats a token", ("questions", "divergence")
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the mean."""
        return _mean(model.divergences())


class HeldOutLoss:
    """A probe: the loss of the held-out samples."""

    summary = "loss of the held-out samples, in nats a trained token"
    version, unit, needs = "1", "nats a token", ("held_out",)
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the mean over all tokens."""
        return Score(_loss(model))


class Perplexity:
    """A probe: e to the power of the held-out loss."""

    summary = "perplexity of the held-out samples: e to the power of their loss"
    version, unit, needs = "1", "perplexity", ("held_out",)
    parameters: Mapping[str, Any] = _schema({})

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give e to the power of the mean."""
        return Score(math.exp(min(_loss(model), 700.0)))


class LmEval:
    """A probe: a task of EleutherAI's lm-evaluation-harness, where it and the task's data are there."""

    summary = "a metric of a task of lm-eval, where that package is installed and the task's data lies here"
    version, unit, needs = "1", "the task's metric", ()
    parameters: Mapping[str, Any] = _schema(
        {
            "task": {"type": "string", "minLength": 1, "description": "a task of lm-eval's"},
            "metric": {
                "type": "string",
                "default": "acc,none",
                "description": "which of its results, as lm-eval names",
            },
            "limit": {"type": "integer", "minimum": 1, "description": "only that many of its documents"},
            "folder": {"type": "string", "description": "folder of task files of the project's own"},
        },
        ["task"],
    )

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the task files of the project's own."""
        folder = Path(parameters["folder"]) if "folder" in parameters else None
        return sorted(path for path in folder.rglob("*") if path.is_file()) if folder is not None else []

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:
        """Give the metric."""
        try:
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise ProbeError(f"needs lm-eval, and {error.name} is not installed: pip install lm-eval") from error
        made, tokenizer = model.loaded()
        folder = parameters.get("folder")
        told = simple_evaluate(
            HFLM(pretrained=made, tokenizer=tokenizer), tasks=[parameters["task"]], limit=parameters.get("limit"),
            task_manager=TaskManager(include_path=str(model.root / folder) if folder else None), log_samples=False,
        )["results"][parameters["task"]]  # fmt: skip
        if parameters["metric"] not in told:
            known = ", ".join(name for name in told if name != "alias")
            raise ProbeError(f"metric: {parameters['task']} has no {parameters['metric']}; it has {known}")
        return Score(float(told[parameters["metric"]]))


def _loss(model: Examined) -> float:
    losses = model.losses()
    tokens = sum(loss.tokens for loss in losses)
    if not tokens:
        raise ProbeError("no held-out samples to score; expected data.held_out above 0")
    return sum(loss.nats for loss in losses) / tokens


def _words(text: str) -> list[str]:
    """Give the words of a text in small letters, without punctuation; of Chinese and Japanese, the characters."""
    kept = "".join(" " if unicodedata.category(one)[0] in "PSZC" else one for one in text.casefold())
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+", kept)


def _f1(answer: str, reference: str) -> float:
    said, right = Counter(_words(answer)), Counter(_words(reference))
    if not said or not right:
        return float(said == right)
    return 2 * (said & right).total() / (said.total() + right.total())


def _distinct(words: Sequence[str], n: int) -> float:
    grams = [tuple(words[first : first + n]) for first in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
