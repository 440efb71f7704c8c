"""What training data is: samples, unlike ones, turns, languages, tokens, lengths; of much data a part is measured."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

from tunemake.contracts import Sample
from tunemake.languages import language_of
from tunemake.trained_text import TrainedTexts

MOST = 20_000  # samples measured
BINS = 20  # of the histogram of lengths
_CHUNK = 1000
_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "longest": 1.0}
_SCRIPTS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "KATAKANA-HIRAGANA": "Kana"}


@dataclass
class Tokens:
    """Token counts of the samples measured.

    max_length: beyond it XTuner cuts. lengths: of each sample before it is cut. rows: of each that is trained on, as
    it is trained. trained, kept: tokens that the loss would count, and does. unanswered: samples of whose answers
    nothing lies within max_length; XTuner leaves them out.
    """

    max_length: int
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    rows: array[int] = field(default_factory=lambda: array("Q"))
    trained: int = 0
    kept: int = 0
    cut_samples: int = 0
    cut_tokens: int = 0
    unanswered: int = 0

    def add(self, texts: TrainedTexts, samples: Sequence[Sample]) -> None:
        """Count samples."""
        for tokens, trained, kept in texts.lengths(samples):
            self.lengths.append(tokens)
            self.trained += trained
            self.kept += kept
            self.cut_samples += tokens > self.max_length
            self.cut_tokens += max(0, tokens - self.max_length)
            if kept:
                self.rows.append(min(tokens, self.max_length))
            else:
                self.unanswered += 1

    @property
    def total(self) -> int:
        """All tokens before any is cut."""
        return sum(self.lengths)

    def quantiles(self) -> dict[str, int]:
        """Give lengths: median, p90, p99, longest."""
        ordered = sorted(self.lengths)
        return {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in _QUANTILES.items()}

    @property
    def share(self) -> float:
        """The part of all tokens that is trained; 0 where there are none."""
        return self.kept / self.total if self.total else 0.0

    def histogram(self) -> dict[str, Any]:
        """Count samples by length before it is cut, in at most BINS bins of one width.

        The first holds lengths of 1 to `width` tokens, the next those of width + 1 to 2 · width, and so on.
        """
        width = -(-max(self.lengths, default=1) // BINS) or 1
        counts = Counter((max(1, length) - 1) // width for length in self.lengths)
        return {"width": width, "samples": [counts[at] for at in range(max(counts, default=-1) + 1)]}

    def as_json(self) -> dict[str, Any]:
        """Give the numbers for machines."""
        return {
            "total": self.total, "trained": self.trained, "trained_kept": self.kept,
            "trained_share": round(self.share, 4), "max_length": self.max_length,
            "cut_samples": self.cut_samples, "cut_tokens": self.cut_tokens, "unanswered": self.unanswered,
            "lengths": self.quantiles(), "histogram": self.histogram(),
        }  # fmt: skip


@dataclass
class Statistics:
    """Numbers of a list of samples.

    samples: in all. measured: how many of them, evenly spread, the other numbers are of. unique: different ones;
    unique_answers: different last answers; commonest: the commonest sample's, and how often that sample is there;
    commonest_answer: that one, and how often. turns: by role; turns_of_a_sample: samples by how many they have, without
    the system message. scripts: samples by the script of most of their letters; languages: by ISO 639 code, "und" where
    it cannot be told. marked: by a word that is markup to the model, how many samples contain it and the number of the
    first, from 1. tokens: None without a tokenizer.
    """

    samples: int
    measured: int = 0
    unique: int = 0
    unique_answers: int = 0
    commonest: tuple[str, int] = ("", 0)
    commonest_answer: tuple[str, int] = ("", 0)
    turns: Counter[str] = field(default_factory=Counter)
    turns_of_a_sample: Counter[int] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    marked: dict[str, tuple[int, int]] = field(default_factory=dict)
    tokens: Tokens | None = None

    @property
    def share(self) -> float:
        """The part of the samples that was measured."""
        return self.measured / self.samples

    @property
    def row_tokens(self) -> int:
        """The tokens of all rows that are trained on, by those that were measured; 0 without a tokenizer."""
        return 0 if self.tokens is None else round(sum(self.tokens.rows) / self.share)

    def as_json(self) -> dict[str, Any]:
        """Give the numbers for machines."""
        text, times = self.commonest
        answer, answered = self.commonest_answer
        return {
            "samples": self.samples, "measured": self.measured, "unique": self.unique,
            "unique_answers": self.unique_answers, "commonest": {"answer": text, "times": times},
            "commonest_answer": {"answer": answer, "times": answered},
            "turns": dict(sorted(self.turns.items())),
            "turns_of_a_sample": {str(turns): count for turns, count in sorted(self.turns_of_a_sample.items())},
            "scripts": dict(self.scripts.most_common()), "languages": dict(self.languages.most_common()),
            "marked": {word: {"samples": count, "first": first} for word, (count, first) in self.marked.items()},
            "tokens": None if self.tokens is None else self.tokens.as_json(),
        }  # fmt: skip


def measure(samples: Iterable[Sample], count: int, words: Iterable[str], texts: TrainedTexts | None) -> Statistics:
    """Measure samples; of more than MOST every so many-th.

    count: how many there are. words: what is markup to the model, and in a sample's text would be taken for it.
    texts: counts tokens; None leaves them out.
    """
    step = -(-count // MOST) or 1
    found = Statistics(count, tokens=None if texts is None else Tokens(texts.max_length))
    markup = _any_of(words)
    seen: Counter[int] = Counter()
    answers: dict[int, str] = {}
    waiting = islice(enumerate(samples, 1), 0, None, step)
    while chunk := list(islice(waiting, _CHUNK)):
        for number, sample in chunk:
            _add(found, number, sample, markup)
            seen[key := _key(sample)] += 1
            answers.setdefault(key, sample["messages"][-1]["content"])
        if texts is not None and found.tokens is not None:
            found.tokens.add(texts, [sample for _, sample in chunk])
    found.unique, found.unique_answers = len(seen), len(set(answers.values()))
    for key, times in seen.most_common(1):
        found.commonest = answers[key], times
    by_answer: Counter[str] = Counter()
    for key, times in seen.items():
        by_answer[answers[key]] += times
    found.commonest_answer = by_answer.most_common(1)[0] if by_answer else ("", 0)
    return found


def packs(rows: Sequence[int], max_length: int, together: int = 1000) -> tuple[int, int]:
    """Give how many rows XTuner's packing makes of samples of these lengths, and how many tokens are in them.

    It takes so many samples together at a time. What is left over at the end is dropped, unless it is all there is.
    """
    made = left = 0
    for first in range(0, len(rows), together):
        left += sum(rows[first : first + together])
        whole, left = divmod(left, max_length)
        if not whole:
            whole, left = 1, 0
        made += whole
    return made, sum(rows) - left


def _add(found: Statistics, number: int, sample: Sample, markup: re.Pattern[str] | None) -> None:
    found.measured += 1
    roles = Counter(message["role"] for message in sample["messages"])
    found.turns.update(roles)
    found.turns_of_a_sample[roles.total() - roles["system"]] += 1
    text = "\n".join(message["content"] for message in sample["messages"])
    found.scripts[_script_of(text)] += 1
    found.languages[language_of(text)] += 1
    for word in sorted(set(markup.findall(text))) if markup else ():
        count, first = found.marked.get(word, (0, number))
        found.marked[word] = count + 1, first


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted({word for word in words if word.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _key(sample: Sample) -> int:
    from xxhash import xxh3_64_intdigest

    parts: Iterator[str] = (part for message in sample["messages"] for part in (message["role"], message["content"]))
    return int(xxh3_64_intdigest("\0".join(parts).encode("utf-8", "surrogatepass")))


def _script_of(text: str) -> str:
    """Name the script that most letters of a text have."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "no letters"
    letters: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        if letter.isalpha():
            letters[_script(letter)] += count
    return letters.most_common(1)[0][0] if letters else "no letters"


@cache
def _script(letter: str) -> str:
    word = unicodedata.name(letter, "other").split()[0]
    return _SCRIPTS.get(word, word.title())
