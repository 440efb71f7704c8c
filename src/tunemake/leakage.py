"""Whether texts that must be unseen (held-out samples, prompts of probes) are among others: the same, or nearly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import nlargest
from itertools import islice
from typing import Any, NamedTuple

from tunemake.contracts import Sample
from tunemake.samples import folded

NEAR = 0.8  # Jaccard similarity of two texts' character trigrams: shared ones by all
GRAM = 3  # characters; it serves Chinese, which has no spaces between words, too
MOST = 100_000  # samples of a kind that are compared for near ones; of more, every so many-th
MOST_PAIRS = 500_000  # pairs measured in one comparison, evenly spread; it takes about ten seconds
_CROWD = 20  # pairs that sketches choose among, by those measured
_EXAMPLES = 3  # of same ones, and of near ones
_SHORT = 1_000  # characters, up to which trigrams are kept
_CHUNK = 500
# With 20 bands of 6 rows, MinHash misses 1 in 400 pairs of similarity 0.8, and takes up 1 in 60 of 0.3 for nothing.
_BANDS, _ROWS = 20, 6


class Pair(NamedTuple):
    """A text that must be unseen, the one that it is like, and their similarity; 1 where they are the same, folded."""

    text: str
    like: str
    similarity: float


@dataclass
class Overlap:
    """What of some texts is among others.

    texts: how many unlike ones were looked for; left_out: samples of theirs that were not, since there are so many.
    exact: of the texts, how many are there but for case, punctuation and spaces; near: how many more nearly are.
    others: among how many samples; compared: how many of these were looked at for near ones; unmeasured: pairs that may
    be near and were not measured, since there are so many: then there may be more near ones. examples: nearest first.
    """

    texts: int
    left_out: int = 0
    exact: int = 0
    near: int = 0
    others: int = 0
    compared: int = 0
    unmeasured: int = 0
    examples: list[Pair] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Give the numbers for machines."""
        return {**vars(self), "examples": [pair._asdict() for pair in self.examples]}


@dataclass
class Leakage:
    """What leaked. held_out: of the held-out conversations into the training samples.

    prompts, prompts_held_out: of each probe's prompts into what users ask in the training, and the held-out, samples.
    """

    held_out: Overlap
    prompts: dict[str, Overlap]
    prompts_held_out: dict[str, Overlap]

    def as_json(self) -> dict[str, Any]:
        """Give the numbers for machines, with how they were found."""
        return {
            "similarity": NEAR, "characters": GRAM, "held_out": self.held_out.as_json(),
            "prompts": {name: overlap.as_json() for name, overlap in self.prompts.items()},
            "prompts_held_out": {name: overlap.as_json() for name, overlap in self.prompts_held_out.items()},
        }  # fmt: skip


class Unseen:
    """Texts that must be unseen, held against others as these pass by; each is told by the first that is like it.

    MinHash finds what may be near, and that is measured: what is told is near, though one in hundreds may be missed.
    """

    def __init__(self, texts: Iterable[str], others: int) -> None:
        """Take the texts. others: how many samples will pass by, and be looked at for near ones."""
        from rensa import RMinHashLSH

        self._texts = {key: text for text in texts if (key := folded(text))}
        self._keys = list(self._texts)
        self._exact: dict[str, Pair] = {}
        self._near: dict[str, Pair] = {}
        self._passed: set[int] = set()
        self._most = MOST_PAIRS // max(1, others)
        self._others = self._compared = self._unmeasured = 0
        self._sketches = _sketches(self._keys)
        self._index = RMinHashLSH(threshold=NEAR, num_perm=_BANDS * _ROWS, num_bands=_BANDS)
        self._index.insert_many(self._sketches)

    def pass_by(self, samples: Sequence[Sequence[str]], every: slice) -> None:
        """Look at the texts of other samples. every: those that are looked at for near ones, too."""
        self._others += len(samples)
        if not self._keys:
            self._compared += len(samples[every])
            return
        keys = [{key: text for text in texts if (key := folded(text))} for texts in samples]
        for texts in keys:
            for key in (texts.keys() & self._texts.keys()) - self._exact.keys():
                self._exact[key] = Pair(self._texts[key], texts[key], 1.0)
        self._compared += len(keys[every])
        self._compare({key: text for texts in keys[every] for key, text in texts.items()})

    def overlap(self, texts: Iterable[str], left_out: int = 0) -> Overlap:
        """Give what of some of the texts was seen."""
        keys = dict.fromkeys(key for text in texts if (key := folded(text)))
        exact = [self._exact[key] for key in keys if key in self._exact]
        near = [self._near[key] for key in keys if key in self._near and key not in self._exact]
        near.sort(key=lambda pair: -pair.similarity)
        examples = [*exact[:_EXAMPLES], *near[:_EXAMPLES]]
        return Overlap(
            len(keys), left_out, len(exact), len(near), self._others, self._compared, self._unmeasured, examples
        )

    def _compare(self, texts: Mapping[str, str]) -> None:
        new = {key: text for key, text in texts.items() if hash(key) not in self._passed}
        self._passed.update(map(hash, new))
        sketches = _sketches(new)
        for key, sketch, candidates in zip(new, sketches, self._index.query_all(sketches), strict=True):
            for index in self._likeliest(sketch, candidates):
                self._measure(index, key, new[key])

    def _likeliest(self, sketch: Any, candidates: Sequence[int]) -> Sequence[int]:
        """Give those to be measured: where there are too many, those that the sketches say are most alike."""
        if len(candidates) <= self._most:
            return candidates
        self._unmeasured += len(candidates) - self._most
        crowd = candidates[: _CROWD * self._most]
        return nlargest(self._most, crowd, key=lambda index: sketch.jaccard(self._sketches[index]))

    def _measure(self, index: int, key: str, text: str) -> None:
        mine = self._keys[index]
        if mine in self._near or mine in self._exact:
            return
        likeness = similarity(mine, key)
        if likeness >= NEAR:
            self._near[mine] = Pair(self._texts[mine], text, min(0.999, round(likeness, 3)))
            self._index.remove(index)  # so that what is like many others costs no more


def leakage(
    train: Iterable[Sample], count: int, held_out: Sequence[Sample], probes: Mapping[str, Sequence[str]],
    most: int = MOST,
) -> Leakage:  # fmt: skip
    """Look for leakage.

    train: the training samples, as many as count; they pass by once. probes: prompts by name. most: samples of a kind
    that are compared for near ones; of more held-out ones, the rest is left out.
    """
    kept = [conversation(sample) for sample in held_out[:: _step(len(held_out), most)]]
    asked_for = [prompt for prompts in probes.values() for prompt in prompts]
    conversations, trained = (Unseen(texts, min(count, most)) for texts in (kept, asked_for))
    kept_back = Unseen(asked_for, len(kept))
    for samples, every in _chunks(train, _step(count, most)):
        conversations.pass_by([[conversation(sample)] for sample in samples], every)
        trained.pass_by([asked(sample) for sample in samples], every)
    for samples, every in _chunks(held_out, _step(len(held_out), most)):
        kept_back.pass_by([asked(sample) for sample in samples], every)
    return Leakage(
        conversations.overlap(kept, len(held_out) - len(kept)),
        {name: trained.overlap(prompts) for name, prompts in probes.items()},
        {name: kept_back.overlap(prompts) for name, prompts in probes.items()},
    )


def conversation(sample: Sample) -> str:
    """Give what is said in a sample, without its system message, which often is the same in all."""
    return "\n".join(message["content"] for message in sample["messages"] if message["role"] != "system")


def asked(sample: Sample) -> list[str]:
    """Give what the user asks in a sample."""
    return [message["content"] for message in sample["messages"] if message["role"] == "user"]


def similarity(one: str, other: str) -> float:
    """Give how much two folded texts are alike, from 0 to 1: their trigrams' Jaccard index (Jaccard 1901)."""
    mine, others = _grams(one), _grams(other)
    shared = len(mine & others)
    return shared / (len(mine) + len(others) - shared)


def _grams(text: str) -> frozenset[str]:
    """Give a folded text's runs of GRAM characters; one that is shorter is its own."""
    return _kept_grams(text) if len(text) <= _SHORT else _made_grams(text)


def _made_grams(text: str) -> frozenset[str]:
    return frozenset(text[at : at + GRAM] for at in range(max(1, len(text) - GRAM + 1)))


# Many pairs share a text; long ones would fill the memory, and are few.
_kept_grams = lru_cache(maxsize=10_000)(_made_grams)


def _sketches(texts: Iterable[str]) -> list[Any]:
    from rensa import RMinHash

    return list(RMinHash.from_token_sets((list(_grams(text)) for text in texts), num_perm=_BANDS * _ROWS, seed=0))


def _step(count: int, most: int) -> int:
    return -(-count // most) or 1


def _chunks(samples: Iterable[Sample], step: int) -> Iterator[tuple[list[Sample], slice]]:
    """Give samples in parts, with which of a part are every so many-th."""
    waiting, first = iter(samples), 0
    while part := list(islice(waiting, _CHUNK)):
        yield part, slice(-first % step, None, step)
        first += len(part)
