"""What training on data will lead to and what to change, in one paragraph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tunemake.data_findings import few_answers
from tunemake.data_statistics import Statistics
from tunemake.faults import one_line
from tunemake.findings import excerpt
from tunemake.leakage import Leakage
from tunemake.training_length import TrainingLength

Grade = Literal["overfits", "doubtful", "sound", "unknown"]
PASSES = 10  # times that each unlike sample is shown, from which on it is learnt by heart
MOST_NEAR = 0.5  # share of held-out samples that may be nearly trained on
LEAST_TRAINED = 0.05  # share of the tokens; below it nearly all of the work goes into reading
_REPLAY = "the base model's own answers (the generator replay), about as many again"


@dataclass(frozen=True)
class Verdict:
    """A paragraph, and what it comes to.

    overfits: the model will say one thing to everything. doubtful: something is to be looked at first. unknown: not all
    data is made. sound: as far as counts can tell; they do not know whether an answer is right.
    """

    grade: Grade
    text: str

    def __str__(self) -> str:
        """Give the text as a terminal may show it: samples are quoted in it."""
        return one_line(self.text)


def data_verdict(
    found: Statistics, leaked: Leakage | None, length: TrainingLength | None, *, whole: bool, held_out: int
) -> Verdict:
    """Judge the training samples. whole: no other data will be there. held_out: samples."""
    if not whole:
        many = f"{found.samples:,} samples are made so far, with {found.unique_answers:,} unlike answers"
        return Verdict(
            "unknown", f"Not all data is made, so it cannot be judged: {many}. Build the rest and check again."
        )
    unseen = [] if held_out else ["Nothing is held out: no loss on unseen samples will show what it learns by heart."]
    if one := list(_one_answer(found, length)):
        return Verdict("overfits", " ".join([*one, *_doubts(found, leaked), *unseen]))
    if doubts := [*_learnt_by_heart(found, length), *_doubts(found, leaked)]:
        return Verdict("doubtful", " ".join(["To be looked at first:", *doubts, *unseen]))
    return Verdict("sound", " ".join([_sound(found, leaked, length), *unseen]))


def _one_answer(found: Statistics, length: TrainingLength | None) -> Iterator[str]:
    """Tell of data that has one answer to everything."""
    if found.samples == 1 or found.unique_answers > 1:
        return
    times = f"{found.samples:,} times"
    what = f"one question with one answer, {times}" if found.unique == 1 else f"one answer to all questions, {times}"
    shown = f", and {length.epochs:g} passes show it {_shown(found, length):,} times" if length is not None else ""
    yield f"Badly overfitting: {what}{shown}."
    yield f'Nothing in it says when not to answer so: the model will say "{excerpt(found.commonest_answer[0])}"'
    yield "to whatever it is asked, and lose what the base model could do."
    yield f"Add other data, such as {_REPLAY}, ask for it in many ways,"
    yield "and train for few steps: repeating the pair teaches nothing more."


def _learnt_by_heart(found: Statistics, length: TrainingLength | None) -> Iterator[str]:
    """Tell of data that repeats itself, or is shown again and again."""
    answer, times = found.commonest_answer
    if few_answers(found):
        yield f"{found.samples:,} samples have only {found.unique_answers:,} unlike answers: the model will give these"
        yield f"to other questions too; unless they are labels to choose among, add {_REPLAY}."
    elif times * 2 > found.measured > 1:
        yield f'The answer "{excerpt(answer)}" is that of {times / found.measured:.0%} of the samples,'
        yield "and will be given where it does not fit; thin it out, or add other data."
    if length is not None and (passes := _passes(found, length)) > PASSES:
        yield f"Each unlike sample is shown about {passes:,.0f} times and will be learnt by heart, word for word;"
        yield "train for fewer steps or epochs, or add data."


def _doubts(found: Statistics, leaked: Leakage | None) -> Iterator[str]:
    """Tell what is lost, misread, or makes scores better than they are."""
    tokens = found.tokens
    if tokens is not None and tokens.cut_samples:
        part = "All" if tokens.cut_samples == found.measured else f"{tokens.cut_samples / found.measured:.1%} of the"
        yield f"{part} samples are cut at {tokens.max_length:,} tokens: their"
        yield f"answers end in the middle; data.max_length = {tokens.quantiles()['longest']} keeps all."
    if tokens is not None and tokens.trained < LEAST_TRAINED * tokens.total:
        yield f"Only {tokens.trained / tokens.total:.1%} of the tokens are answers, which alone are learnt;"
        yield "shorten what precedes them."
    if found.marked:
        words = ", ".join(list(found.marked)[:3])
        yield f"Texts hold markup ({words}), which the model reads as the end or beginning of a turn; take it out."
    if leaked is None:
        return
    held = leaked.held_out
    if held.exact or held.near > MOST_NEAR * held.texts:
        yield f"{held.exact + held.near:,} of {held.texts:,} held-out samples are trained on, the same or nearly:"
        yield "the held-out loss will look better than the model is."
    if names := [name for name, overlap in leaked.prompts.items() if overlap.exact or overlap.near]:
        yield f"Prompts of {', '.join(names)} are trained on, the same or nearly: ask something else,"
        yield "or their scores tell what was learnt by heart."


def _sound(found: Statistics, leaked: Leakage | None, length: TrainingLength | None) -> str:
    many = f"{found.unique:,} unlike samples with {found.unique_answers:,} unlike answers"
    looked = "" if found.measured == found.samples else f" among the {found.measured:,} looked at"
    shown = "" if length is None else f", {length.epochs:g} passes over them"
    told = "nothing is cut or" if found.tokens is not None else "tokens are not counted; nothing is"
    near = leaked.held_out.near if leaked is not None else 0
    new = f", and what is held out or asked is new but for {near:,} held-out samples" if near else ", nothing leaked"
    return f"Sound, as far as counts can tell: {many}{looked}{shown}; {told} read as markup{new}."


def _passes(found: Statistics, length: TrainingLength) -> float:
    """Give how often each unlike sample is shown on average."""
    return length.epochs * found.measured / found.unique


def _shown(found: Statistics, length: TrainingLength) -> int:
    return round(length.epochs * found.samples)
