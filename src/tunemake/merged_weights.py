"""The weights of a merged model, written block by block in several threads, without torch.

Blocks of fixed size, made for the cache, keep memory the same whatever the model's size.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunemake.dequantised_base import DequantisedBase
from tunemake.faults import Fault, StageError
from tunemake.lora_changes import Change
from tunemake.tensors import BYTES, FLOATS, Block, Files, Tensor, blocks

BLOCK = 262_144  # values; smaller ones multiply slower, larger ones leave the cache
PIECE = 64 * BLOCK  # values; what one thread takes at a time
MOST_THREADS = 4  # beyond them the disk decides


@dataclass(frozen=True)
class Piece:
    """Rows of one tensor to be written: target = source as the change says, plus its factors where it has some."""

    target: Tensor
    change: Change
    rows: range
    columns: int


def pieces_of(target: Tensor, change: Change) -> list[Piece]:
    """Cut a tensor into what one thread takes at a time; without factors its shape does not matter."""
    rows, columns = target.shape if change.a and len(target.shape) == 2 else (target.count, 1)  # noqa: PLR2004 - a matrix
    step = max(1, PIECE // max(1, columns))
    return [Piece(target, change, range(rows)[first : first + step], columns) for first in range(0, rows, step)]


class Work:
    """Does pieces in several threads; collects what float16 cannot hold.

    progress: called with bytes written and in all. onto: gives the values of changes in 4 bits; needed where some are.
    """

    def __init__(
        self, pieces: list[Piece], progress: Callable[[int, int], None], onto: DequantisedBase | None = None
    ) -> None:
        self.onto = onto
        self.pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        for piece in pieces:
            self.pieces.put(piece)
        self.total, self.done, self.progress = sum(map(_size, pieces)), 0, progress
        self.lost: dict[str, int] = {}
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def run(self) -> None:
        """Do all pieces; StageError names each tensor with values beyond float16."""
        # A job may use fewer cores than the machine has; macOS cannot say which.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = min(MOST_THREADS, cores)
        with Files() as files, ThreadPoolExecutor(threads) as pool:
            try:
                running = [pool.submit(self._drain, files) for _ in range(threads)]
                for future in wait(running, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                self.stopped.set()
        if self.lost:
            next_step = 'declare dtype = "bfloat16" or "float32"'
            raise StageError(
                Fault(name, f"{count} finite values are too large for float16", next_step=next_step)
                for name, count in sorted(self.lost.items())
            )

    def _drain(self, files: Files) -> None:
        space = _Space(files, self.onto)
        while not self.stopped.is_set():
            try:
                piece = self.pieces.get_nowait()
            except queue.Empty:
                return
            lost = space.write(piece)
            with self.lock:
                if lost:
                    self.lost[piece.target.name] = self.lost.get(piece.target.name, 0) + lost
                self.done += _size(piece)
                self.progress(self.done, self.total)


class _Space:
    """One thread's buffers, made once."""

    def __init__(self, files: Files, onto: DequantisedBase | None) -> None:
        self.files, self.onto = files, onto
        self.read, self.written = np.empty(BLOCK * 8, np.uint8), np.empty(BLOCK * 8, np.uint8)
        self.values, self.delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)

    def write(self, piece: Piece) -> int:
        """Write one piece; give the number of finite values that its dtype cannot hold."""
        source, target = piece.change.source, piece.target
        factors = _factors(self.files, piece.change)
        lost = 0
        for block in blocks(piece.rows, piece.columns, BLOCK):
            count, first = block.rows * block.columns, block.row * piece.columns + block.column
            raw = self.read[: count * BYTES[source.dtype]]
            self.files.read(source, first * BYTES[source.dtype], raw)
            if factors or source.dtype != target.dtype or piece.change.four_bits:
                raw, beyond = self._rounded(raw, block, factors, piece)
                lost += beyond
            self.files.write(target, first * BYTES[target.dtype], raw)
        return lost

    def _rounded(
        self,
        raw: NDArray[np.uint8],
        block: Block,
        factors: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
        piece: Piece,
    ) -> tuple[NDArray[np.uint8], int]:
        """Give the block's bytes in the target's dtype, and how many finite values that cannot hold."""
        source, target = FLOATS[piece.change.source.dtype], FLOATS[piece.target.dtype]
        values = self.values[: block.rows * block.columns]
        out = self.written[: values.size * target.itemsize].view(target)
        with np.errstate(over="ignore"):  # counted below
            np.copyto(values, raw.view(source), casting="same_kind")
            if self.onto and piece.change.four_bits:
                first = block.row * piece.columns + block.column
                values[:] = self.onto.values(self.files, piece.change.source, values, first)
            if factors:
                delta = self.delta[: values.size]
                left = factors[0][block.row : block.row + block.rows]
                right = factors[1][:, block.column : block.column + block.columns]
                np.matmul(left, right, out=delta.reshape(block.rows, block.columns))
                delta *= np.float32(piece.change.scale)
                values += delta
            np.copyto(out, values, casting="same_kind")
        lost = 0
        if piece.target.dtype == "F16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            lost = int(np.count_nonzero(np.isinf(out) & np.isfinite(values)))
        return out.view(np.uint8), lost


def _factors(files: Files, change: Change) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Give left and right, whose product lies as the weight is stored; StageError where one is not finite."""
    if change.a is None or change.b is None:
        return None
    a, b = files.load(change.a), files.load(change.b)
    for tensor, values in ((change.a, a), (change.b, b)):
        if not np.isfinite(values).all():
            raise StageError(Fault(str(tensor.path), f"{tensor.name} has values that are not finite"))
    return (a.T, b.T) if change.transposed else (b, a)


def _size(piece: Piece) -> int:
    return len(piece.rows) * piece.columns * BYTES[piece.target.dtype]
