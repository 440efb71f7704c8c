"""Samples as the rows that XTuner trains on: encoded piece by piece, cut, shuffled and packed as it does all that.

Everything passes in a stream: a chunk of samples is in memory, and of all others their lengths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tunemake.contracts import Sample
from tunemake.prompts import Piece, bos_of, pieces_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that the loss does not count
TOGETHER = 1000  # samples that XTuner packs at a time
_CHUNK = 1000
_CHATGLM = [64790, 64792]  # what XTuner puts before a text for this one tokenizer
_CELL = np.dtype(np.int32)


class Rows(NamedTuple):
    """Rows one after the other. ends: where each of them ends in ids and labels, which are of one length."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    ends: NDArray[np.int64]


@dataclass
class Encoder:
    """Encodes conversations as XTuner's encode_fn does. template: a prompt template, resolved.

    samples, left_out: how many were seen, and of how many no answer lies within max_length, which XTuner leaves out.
    tokens, trained: of the rows that stay, all and those that the loss counts. cut: tokens beyond max_length.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Mapping[str, Any]
    max_length: int
    samples: int = 0
    left_out: int = 0
    tokens: int = 0
    trained: int = 0
    cut: int = 0
    _marks: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own, kind = self.tokenizer, type(self.tokenizer).__name__
        self._bos = bos_of(self.template, own.bos_token, kind)
        if self._bos is not None:
            self._marks[self._bos] = [own.bos_token_id]
        if kind == "ChatGLMTokenizer":
            self._bos = "".join(map(str, _CHATGLM))
            self._marks[self._bos] = _CHATGLM
        self._eos: str | None = own.eos_token
        if self._eos is not None:
            self._marks[self._eos] = [own.eos_token_id]

    def rows(self, samples: Iterable[Sample]) -> Iterator[Rows]:
        """Give samples as rows, some at a time, in order."""
        waiting = iter(samples)
        while chunk := list(islice(waiting, _CHUNK)):
            cut = [list(self._pieces(sample)) for sample in chunk]
            # Templates and data repeat themselves: each text is encoded once a chunk.
            texts = list({piece.text for pieces in cut for piece in pieces if not piece.token})
            yield self._rows(cut, dict(zip(texts, self._encoded(texts), strict=True)))

    def _pieces(self, sample: Sample) -> Iterator[Piece]:
        pieces = pieces_of(self.template, sample["messages"], self._bos, self._eos)
        return (piece for piece in pieces if piece.text)

    def _encoded(self, texts: list[str]) -> Iterator[list[int]]:
        """Give the ids of each text, as the tokenizer's encode gives them."""
        if not self.tokenizer.is_fast:
            yield from map(partial(self.tokenizer.encode, add_special_tokens=False), texts)
            return
        if texts:
            self.tokenizer.encode(texts[0], add_special_tokens=False)  # no truncation, no padding from now on
        backend = self.tokenizer.backend_tokenizer  # what encode asks; here for many at once
        yield from (one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False))

    def _rows(self, cut: list[list[Piece]], known: Mapping[str, list[int]]) -> Rows:
        every: list[int] = []
        labels: list[int] = []
        ends: list[int] = []
        self.samples += len(cut)
        for pieces in cut:
            row: list[int] = []
            counted: list[int] = []
            for piece in pieces:
                ids = self._marks[piece.text] if piece.token else known[piece.text]
                row += ids
                counted += ids if piece.trained else [IGNORED] * len(ids)
            self.cut += max(0, len(row) - self.max_length)
            del row[self.max_length :], counted[self.max_length :]
            trained = len(counted) - counted.count(IGNORED)
            if not trained:
                self.left_out += 1
                continue
            every += row
            labels += counted
            ends.append(len(every))
            self.trained += trained
        self.tokens += len(every)
        return Rows(np.array(every, _CELL), np.array(labels, _CELL), np.array(ends, np.int64))


def packed(rows: Iterable[Rows], max_length: int, seed: int, folder: Path) -> Iterator[Rows]:
    """Give rows shuffled, and joined to rows of max_length each, as XTuner's Packer joins them.

    What is left over at the end is dropped, unless nothing else came of the last rows. seed: of the training, by which
    XTuner's shuffle comes out. folder: where the rows wait on the disk for their turn.
    """
    with TemporaryFile(dir=folder) as ids, TemporaryFile(dir=folder) as labels:
        lengths = [np.zeros(1, np.int64)]
        for some in rows:
            ids.write(some.ids.tobytes())
            labels.write(some.labels.tobytes())
            lengths.append(np.diff(some.ends, prepend=0))
        ids.flush()
        labels.flush()
        places = np.cumsum(np.concatenate(lengths))
        order = np.random.default_rng(seed).permutation(len(places) - 1)
        files = ids.fileno(), labels.fileno()
        left = np.zeros(0, _CELL), np.zeros(0, _CELL)
        for first in range(0, len(order), TOGETHER):
            chosen = order[first : first + TOGETHER]
            spans = [(int(places[one]), int(places[one + 1])) for one in chosen]
            joined = [np.concatenate([old, *_read(file, spans)]) for file, old in zip(files, left, strict=True)]
            made, left = _cut(joined[0], joined[1], max_length)
            yield made


def _cut(
    ids: NDArray[np.int32], labels: NDArray[np.int32], length: int
) -> tuple[Rows, tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Give as many rows of one length as there are, or what is too short for one; and what is left."""
    whole = len(ids) // length
    end = whole * length if whole else len(ids)
    ends = np.arange(1, whole + 1) * length if whole else np.array([end])
    return Rows(ids[:end], labels[:end], ends), (ids[end:], labels[end:])


def _read(file: int, spans: Iterable[tuple[int, int]]) -> Iterator[NDArray[np.int32]]:
    """Read stretches of a file of ids; a map of it would count as memory, all of it in the end."""
    size = _CELL.itemsize
    for start, end in spans:
        yield np.frombuffer(os.pread(file, (end - start) * size, start * size), _CELL)
