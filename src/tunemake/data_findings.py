"""What is wrong with training data, told from its statistics: what is cut, repeated, lost or read as markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunemake.data_statistics import Statistics, Tokens
from tunemake.faults import Fault
from tunemake.findings import Finding, excerpt
from tunemake.training_length import TrainingLength

MOST_PADDED = 1 / 3  # of what is computed; more is worth a word
FEW = 20  # samples to an unlike answer, from which on a model learns the answers rather than to answer


def data_findings(found: Statistics, *, whole: bool) -> Iterator[Finding]:
    """Give what the statistics of the training samples show. whole: no other data will be there."""
    if whole:
        yield from _repeated(found)
    if found.tokens is not None:
        yield from _cut(found, found.tokens)
    for word, (count, first) in found.marked.items():
        what = f"{word} in the text of {_of(count, found)}, first in sample {first}"
        step = "the model reads it as markup: a turn would end or begin there; take it out of the text"
        yield Finding("warning", "markup_in_text", Fault("data", what, next_step=step))


def few_answers(found: Statistics) -> bool:
    """Say whether there are several answers, and so few that each is there FEW times and more."""
    return 1 < found.unique_answers <= found.measured / FEW


def length_findings(length: TrainingLength, samples: int, train: Mapping[str, Any]) -> Iterator[Finding]:
    """Give what is wrong with how long the training is. samples: how many there are."""
    if length.rows and length.epochs < 1:
        seen = min(samples, round(samples * length.epochs))
        what = f"{train['steps']} steps end before all samples were seen once"
        step = f"about {seen} of {samples} are trained on; {_steps_of_one_pass(length)} steps see all"
        yield Finding("note", "part_of_the_data", Fault("train.steps", what, next_step=step))

    if length.padded is not None and length.padded > MOST_PADDED:
        what = f"{length.padded:.0%} of what is computed is padding, since rows are as long as the longest of a batch"
        step = f"packing = true computes about {1 / (1 - length.padded):.1f} times less; samples of a row then see each"
        yield Finding("note", "padding", Fault("data.packing", what, next_step=f"{step} other, so try what it learns"))


def _steps_of_one_pass(length: TrainingLength) -> int:
    return max(length.steps + 1, round(length.steps / length.epochs)) if length.epochs else length.rows


def _repeated(found: Statistics) -> Iterator[Finding]:
    answer, times = found.commonest
    shown = excerpt(answer)
    if found.unique == 1 and found.samples > 1:
        what = f"{found.samples:,} samples are one and the same, {found.samples:,} times"
        step = (
            f'the model will say "{shown}" whatever is asked; add other data, such as the base\'s own answers (replay)'
        )
        yield Finding("warning", "one_sample", Fault("data", what, next_step=step))
    elif found.unique_answers == 1 and found.samples > 1:
        what = f"all {found.samples:,} samples have one and the same answer"
        step = (
            f'the model will say "{shown}" whatever is asked; add other data, such as the base\'s own answers (replay)'
        )
        yield Finding("warning", "one_answer", Fault("data", what, next_step=step))
    elif few_answers(found):
        each = round(found.measured / found.unique_answers)
        what = f"{found.unique_answers:,} unlike answers to {_of(found.measured, found)}, each about {each:,} times"
        step = f'the commonest is "{excerpt(found.commonest_answer[0])}"; unless these are labels to choose among, add'
        yield Finding("note", "few_answers", Fault("data", what, next_step=f"{step} other data"))
    if 1 < found.unique < found.measured:
        again = found.measured - found.unique
        what = f"repeat another sample: {_of(again, found)}; the commonest is there {times:,} times"
        severity = "warning" if again * 2 > found.measured else "note"
        told = Fault("data", what, got=f'its answer "{shown}"', next_step="what is repeated weighs more")
        yield Finding("warning" if severity == "warning" else "note", "duplicates", told)


def _cut(found: Statistics, tokens: Tokens) -> Iterator[Finding]:
    longest = tokens.quantiles()["longest"]
    if tokens.unanswered == found.measured:
        what = f"the answers of all samples lie wholly beyond {tokens.max_length} tokens: no step can be made"
        fault = Fault(
            "data.max_length", what, f"more than {tokens.max_length}", next_step=f"the longest has {longest:,}"
        )
        yield Finding("error", "all_answers_cut", fault)
        return
    if tokens.unanswered:
        what = f"answers lie wholly beyond {tokens.max_length:,} tokens: {_of(tokens.unanswered, found)}"
        fault = Fault("data.max_length", what, next_step="XTuner leaves them out of the training")
        yield Finding("warning", "answers_cut", fault)
    if tokens.cut_samples:
        what = f"cut at {tokens.max_length:,} tokens: {_of(tokens.cut_samples, found)}"
        lost = f"{tokens.cut_tokens:,} tokens are lost ({tokens.cut_tokens / tokens.total:.1%})"
        step = f"{lost}; the longest has {longest:,}"
        yield Finding("warning", "cut", Fault("data.max_length", what, next_step=step))


def _of(count: int, found: Statistics) -> str:
    told = f"{count:,} of {found.measured:,} samples" if count < found.measured else f"all {count:,} samples"
    return told if found.measured == found.samples else f"{told} looked at ({found.samples:,} in all)"
