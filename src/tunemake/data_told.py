"""The figures of a training's data as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tunemake.data_figures import Figures
from tunemake.data_statistics import Statistics, Tokens
from tunemake.languages import UNSURE
from tunemake.leakage import Leakage, Overlap

_BARS = "▁▂▃▄▅▆▇█"


def data_lines(figures: Figures) -> Iterator[str]:
    """Give the lines: samples, turns, languages, tokens, lengths, what leaked."""
    found = figures.statistics
    unique = f"{found.unique:,} unique, {found.unique_answers:,} unique answers"
    whole = figures.leakage is not None
    kind = (
        f"{found.samples:,} to train on, {figures.held_out:,} held out" if whole else f"{found.samples:,} made so far"
    )
    looked = "" if found.measured == found.samples else f" of {found.measured:,} of them, evenly spread, as all below"
    yield f"samples   {kind}; {unique}{looked}"
    yield from _turns(found)
    if found.tokens is not None:
        yield from _tokens(found.tokens)
    if figures.leakage is not None:
        yield from _leakage(figures.leakage)


def _turns(found: Statistics) -> Iterator[str]:
    turns = ", ".join(f"{number:,} {role}" for role, number in sorted(found.turns.items()))
    many = ", ".join(f"{turns} {number:,}" for turns, number in sorted(found.turns_of_a_sample.items()))
    yield f"turns     {turns}; samples by turns: {many}"
    languages = Counter({"undetermined" if name == UNSURE else name: n for name, n in found.languages.items()})
    yield f"language  samples by language: {_listed(languages)}; by script: {_listed(found.scripts)}"


def _listed(counts: Counter[Any], most: int = 6) -> str:
    """List counts, the most first, and what is left in one."""
    listed = [f"{name} {number:,}" for name, number in counts.most_common(most)]
    rest = counts.total() - sum(number for _, number in counts.most_common(most))
    return ", ".join([*listed, *([f"{len(counts) - most} others {rest:,}"] if rest else [])])


def _tokens(tokens: Tokens) -> Iterator[str]:
    lengths = ", ".join(f"{name} {number:,}" for name, number in tokens.quantiles().items())
    yield f"tokens    {tokens.total:,}, {tokens.kept:,} of them trained ({tokens.share:.0%})"
    yield f"lengths   {lengths} tokens; cut at {tokens.max_length:,}"
    histogram = tokens.histogram()
    width, counts = histogram["width"], histogram["samples"]
    yield f"          1 {_bars(counts)} {width * len(counts):,} tokens, {width:,} a bar"


def _bars(counts: list[int]) -> str:
    """Draw counts; none is a dot, so that few are told from none."""
    most = max(counts)
    return "".join(_BARS[round(count / most * (len(_BARS) - 1))] if count else "·" for count in counts)


def _leakage(found: Leakage) -> Iterator[str]:
    if found.held_out.texts:
        yield f"leakage   {_overlap(found.held_out, 'held-out samples')}"
    for name, overlap in found.prompts.items():
        yield f"leakage   {_overlap(overlap, f'prompts of {name}')}"


def _overlap(found: Overlap, what: str) -> str:
    looked = (
        "" if found.compared == found.others else f", near ones looked for in {found.compared:,} of {found.others:,}"
    )
    crowd = f", {found.unmeasured:,} likely pairs unmeasured" if found.unmeasured else ""
    left = f", {found.left_out:,} left out" if found.left_out else ""
    return f"{found.texts:,} {what}: trained on {found.exact:,}, nearly {found.near:,}{looked}{crowd}{left}"
