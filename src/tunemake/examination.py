"""A model under the probes of a project: answers, losses and distance from its base, each computed once; uses torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tunemake.contracts import Answer, Loss, Message, Probe, ProbeError, Question, Sample, Score
from tunemake.faults import Fault, StageError
from tunemake.generation import Answers
from tunemake.plugin_files import place_in
from tunemake.prompts import labelled_ids

_ROWS = 8  # samples of a forward pass, at most
_LOGITS = 1 << 26  # values of its logits, at most, unless one sample has more
_PIECE = 512  # positions whose losses are taken at once
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Asked:
    """A probe of the project. name: its own; kind: the plugin's; code: the plugin's files."""

    name: str
    kind: str
    probe: Probe
    parameters: Mapping[str, Any]
    questions: Sequence[Question]
    code: Sequence[Path] = ()

    @property
    def where(self) -> str:
        """Say which it is, for faults."""
        return f"evaluate.probe {self.name}"


@dataclass(frozen=True)
class Base:
    """What the base model says. ids: of its answer to each prompt. likely: files of log-probabilities, of some prompts.

    Each is numpy's, in float16, with a row for each token of the answer and a column for each of the vocabulary.
    """

    answers: Mapping[str, Answer]
    ids: Mapping[str, Sequence[int]]
    likely: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """By what models are examined. root: the project's folder. held_out: samples for losses.

    max_length: tokens beyond which a sample is cut, as in training. max_new_tokens: the longest answer.
    """

    root: Path
    held_out: Sequence[Sample]
    max_length: int
    max_new_tokens: int


class Examination:
    """Scores a model by probes.

    model: it, with tokenizer and prompt template. asked: the probes. terms: the same for every model that is compared.
    base: what the base model says; None where the model is the base itself.
    """

    def __init__(self, model: Answers, asked: Sequence[Asked], terms: Terms, base: Base | None = None) -> None:
        self.model, self.asked, self.terms, self.base = model, asked, terms, base
        self._ids: dict[str, list[int]] = {}
        self._losses: list[Loss] | None = None

    def scores(self, progress: Progress) -> dict[str, Score | None]:
        """Give each probe's score; None where a probe compares with the base, and the model is it."""
        self.answer(progress)
        found: dict[str, Score | None] = {}
        for asked in self.asked:
            alone = self.base is None and not {"base", "divergence"}.isdisjoint(asked.probe.needs)
            found[asked.name] = None if alone else _scored(asked, _View(self, asked.questions))
        return found

    def answer(self, progress: Progress) -> None:
        """Ask the model all questions that it was not asked yet, in one go."""
        prompts = dict.fromkeys(question.prompt for asked in self.asked for question in asked.questions)
        new = [prompt for prompt in prompts if prompt not in self._ids]
        given = self.model.generated(map(_conversation, new), self.terms.max_new_tokens)
        for number, (prompt, ids) in enumerate(zip(new, given, strict=True), 1):
            self._ids[prompt] = ids
            progress(number, len(new), "answers")

    def answers(self) -> dict[str, Answer]:
        """Give the answer to each prompt that was asked."""
        return {prompt: self.model.answer_of(ids) for prompt, ids in self._ids.items()}

    def said(self) -> dict[str, list[int]]:
        """Give the token ids of the answer to each prompt that was asked."""
        return dict(self._ids)

    def likely(self, answers: Mapping[str, Sequence[int]], folder: Path) -> dict[str, Path]:
        """Give what Base.likely holds, of the prompts that a probe compares. answers: token ids by prompt.

        folder: for the files, each of answer length × vocabulary × 2 bytes; of many prompts more than memory holds.
        """
        import numpy as np

        compared = {q.prompt for asked in self.asked if "divergence" in asked.probe.needs for q in asked.questions}
        found = {}
        folder.mkdir(exist_ok=True)
        for number, prompt in enumerate(sorted(compared)):
            found[prompt] = folder / f"{number}.npy"
            np.save(found[prompt], self._likely(prompt, answers[prompt]).half().cpu().numpy())
        return found

    def divergence(self, prompt: str) -> float:
        """Give KL(base || model) in nats, mean over the tokens of the base's answer to a prompt."""
        assert self.base is not None
        import numpy as np
        import torch

        before = torch.from_numpy(np.load(self.base.likely[prompt])).to(self.model.model.device).float()
        if not len(before):
            return 0.0
        now = self._likely(prompt, self.base.ids[prompt])
        found = torch.nn.functional.kl_div(now, before, reduction="sum", log_target=True) / len(before)
        return float(found.clamp(min=0))  # rounding may leave it a little below; what is no number stays none

    def losses(self) -> list[Loss]:
        """Give the loss of each held-out sample."""
        if self._losses is None:
            self._losses = [loss for part in self._parts() for loss in self._loss(part)]
        return self._losses

    def _parts(self) -> Iterator[list[list[tuple[int, bool]]]]:
        """Give the held-out samples in parts that fit into memory with their logits."""
        vocabulary = self.model.model.config.get_text_config().vocab_size
        part: list[list[tuple[int, bool]]] = []
        for sample in self.terms.held_out:
            row = self._labelled(sample)
            width = max(len(row), *map(len, part)) if part else len(row)
            if part and (len(part) == _ROWS or (len(part) + 1) * width * vocabulary > _LOGITS):
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _labelled(self, sample: Sample) -> list[tuple[int, bool]]:
        return labelled_ids(self.model.template, sample["messages"], self.model.tokenizer)[: self.terms.max_length]

    def _loss(self, rows: list[list[tuple[int, bool]]]) -> list[Loss]:
        import torch

        width, device = max(map(len, rows)), self.model.model.device
        ids = torch.tensor([[one for one, _ in row] + [0] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        trained = torch.tensor([[t for _, t in row] + [False] * (width - len(row)) for row in rows], device=device)
        with torch.no_grad():
            logits = self.model.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            counted = trained[:, 1:]
            wanted, told = logits[counted], ids[:, 1:][counted]
            pieces = zip(wanted.split(_PIECE), told.split(_PIECE), strict=True)
            entropy = torch.nn.functional.cross_entropy
            nats = torch.cat([entropy(a.float(), b, reduction="none") for a, b in pieces])
        counts = counted.sum(1).tolist()
        return [Loss(float(part.sum()), count) for part, count in zip(nats.split(counts), counts, strict=True)]

    def _likely(self, prompt: str, answer: Sequence[int]) -> Any:
        """Give the log-probabilities of each token of an answer's place, a row a token."""
        import torch

        asked = self.model.ids_of(_conversation(prompt))
        ids = torch.tensor([[*asked, *answer]], device=self.model.model.device)
        with torch.no_grad():
            logits = self.model.model(input_ids=ids).logits[0, len(asked) - 1 : -1]
        return torch.log_softmax(logits.float(), dim=-1)


class _View:
    """What one probe sees of an examination; contracts.Examined says what each method gives."""

    def __init__(self, whole: Examination, questions: Sequence[Question]) -> None:
        self._whole, self.questions, self.root = whole, questions, whole.terms.root

    def answers(self) -> list[Answer]:
        given = self._whole.answers()
        return [given[question.prompt] for question in self.questions]

    def base_answers(self) -> list[Answer]:
        assert self._whole.base is not None
        return [self._whole.base.answers[question.prompt] for question in self.questions]

    def divergences(self) -> list[float]:
        return [self._whole.divergence(question.prompt) for question in self.questions]

    def losses(self) -> list[Loss]:
        return self._whole.losses()

    def loaded(self) -> tuple[Any, Any]:
        return self._whole.model.model, self._whole.model.tokenizer


def _scored(asked: Asked, view: _View) -> Score:
    ask: Callable[[], Score] = partial(asked.probe.score, asked.parameters, view)
    try:
        found = _score_of(ask())
        value, parts = float(found.value), [float(part) for part in found.parts or ()]
    except ProbeError as error:
        raise StageError(Fault(asked.where, str(error))) from error
    except Exception as error:  # a stranger's code can raise anything
        place = place_in(list(asked.code), error) or f"probe {asked.kind}"
        raise StageError(Fault(asked.where, f"score failed at {place}: {type(error).__name__}: {error}")) from error
    if parts and len(parts) != len(asked.questions):
        wrong = f"score: {len(parts)} parts for {len(asked.questions)} questions"
        raise StageError(Fault(asked.where, wrong, expected="one for each question, or none"))
    return Score(value, parts)


def _score_of(given: object) -> Score:
    if not isinstance(given, Score):
        raise ProbeError(f"score: wrong value given; expected a Score, got {type(given).__name__}")
    return given


def _conversation(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]


def needs(asked: Iterable[Asked]) -> set[str]:
    """Name what the probes need, of contracts.Probe's needs."""
    return {need for one in asked for need in one.probe.needs}
