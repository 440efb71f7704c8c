"""Merge an adapter into its base model, row block by row block, without torch.

Each changed weight is base + scale · B·A, summed in float32 and rounded once. Blocks of fixed size, made for
the cache, keep memory the same whatever the model's size; everything else is copied byte for byte.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunemake.chat_templates import resolved
from tunemake.digests import DIGESTS, Digests
from tunemake.faults import Fault, StageError
from tunemake.lora_changes import Change, read_changes
from tunemake.merge_proof import prove
from tunemake.model_folder import (
    Spec,
    copy_companions,
    create_weights,
    declared_dtype,
    group,
    read_config,
    refuse_quantised,
    set_chat_template,
    write_config,
)
from tunemake.model_record import write_model_record
from tunemake.stages import Job
from tunemake.tensors import BYTES, FLOATS, Block, Files, Tensor, blocks, read_model

BLOCK = 131_072  # values; the float32 block and its delta share a core's cache (1 MiB)
PIECE = 128 * BLOCK  # values; what one thread takes at a time
MOST_THREADS = 4  # beyond them the disk decides


@dataclass(frozen=True)
class Piece:
    """Rows of one tensor to be written: target = source, plus the change's factors where it has some."""

    target: Tensor
    change: Change
    rows: range
    columns: int


def _silent(done: int, total: int) -> None:
    """Take a progress report and show nothing."""


def run(job: Job) -> dict[str, Any]:
    """Write the merged model, which speaks by the project's prompt template, and its record into work.

    parameters: dtype, shard_size ("2GB" or None), prompt_template; and for the record project, base and template
    (names). inputs: base, data, and adapter or, of a full fine-tuning, train and what chosen_checkpoint reads.
    """
    base, dtype = job.inputs["base"] / "model", job.parameters["dtype"]
    size = shard_bytes(job.parameters["shard_size"])
    if "adapter" in job.inputs:
        merge(base, job.inputs["adapter"], job.work, dtype=dtype, shard_size=size, progress=job.progress)
    else:
        from tunemake.stages.adapter import chosen_checkpoint, full_model_from_checkpoint

        full_model_from_checkpoint(chosen_checkpoint(job.inputs), base, job.work, dtype=dtype, shard_size=size)
    template = resolved(job.parameters["prompt_template"], base)
    set_chat_template(job.work, template, trust_remote_code=job.runtime["trust_remote_code"])
    proof = prove(
        job.work, base, job.inputs.get("adapter"), dtype=dtype, shard_size=size, template=template,
        trust_remote_code=job.runtime["trust_remote_code"],
    )  # fmt: skip
    if proof.faults:
        raise StageError(proof.faults)
    told = {**job.parameters, "prompt_template": template}
    write_model_record(job.work, job.inputs, told, Digests(job.root / DIGESTS))
    return {"dtype": dtype, "proof": proof.facts}


def shard_bytes(text: str | None) -> int | None:
    """Give the bytes of a size such as "2GB" or "500MB" (powers of ten, as Hugging Face counts)."""
    return None if text is None else int(float(text[:-2]) * {"MB": 10**6, "GB": 10**9}[text[-2:]])


def merge(
    base: Path,
    adapter: Path | None,
    out: Path,
    *,
    dtype: str = "base",
    shard_size: int | None = None,
    progress: Callable[[int, int], None] = _silent,
) -> None:
    """Write the merged model into the folder out: weights, config.json, tokenizer and custom code.

    adapter: None writes the base itself, in another dtype or in other files.
    dtype: "base" keeps each tensor's own; float16, bfloat16 and float32 are for all float tensors.
    shard_size: bytes in a weight file; None keeps the base's files.
    progress: called with bytes written and bytes in all, by several threads, one at a time.
    ModelError for a base or an adapter that cannot be merged; StageError for a result that float16 cannot
    hold, for factors that are not finite, and where the disk fails.
    """
    config, tensors = read_config(base), read_model(base)
    refuse_quantised(base, config, tensors)
    changes: dict[str, Change] = {name: Change(tensor.dtype, tensor) for name, tensor in tensors.items()}
    untied = False
    if adapter is not None:
        changed, untied = read_changes(adapter, tensors, config)
        changes |= changed
    groups = _groups(tensors, changes, dtype, shard_size)
    try:
        out.mkdir(parents=True, exist_ok=True)
        targets = create_weights(out, groups)
        pieces = [piece for name, target in targets.items() for piece in _pieces(target, changes[name])]
        _Work(pieces, progress).run()
        copy_companions(base, out)
        write_config(out, config, targets.values(), untied=untied)
    except OSError as error:
        raise StageError(Fault(str(error.filename or out), f"cannot be written: {error.strerror}")) from error


def _groups(
    tensors: Mapping[str, Tensor], changes: Mapping[str, Change], dtype: str, shard_size: int | None
) -> list[list[Spec]]:
    """Give the tensors of each weight file; an output that was tied goes into the last one."""
    declared = declared_dtype(dtype)
    files: dict[Path | None, list[Spec]] = {}
    for name, change in changes.items():
        wanted = declared if declared and change.dtype in FLOATS else change.dtype
        shard = tensors[name].path if name in tensors else next(reversed(files), None)
        files.setdefault(shard, []).append((name, wanted, change.source.shape))
    if shard_size is None:
        return list(files.values())
    return group([spec for specs in files.values() for spec in specs], shard_size)


def _pieces(target: Tensor, change: Change) -> list[Piece]:
    """Cut a tensor into what one thread takes at a time; without factors its shape does not matter."""
    rows, columns = target.shape if change.a and len(target.shape) == 2 else (target.count, 1)  # noqa: PLR2004 - a matrix
    step = max(1, PIECE // max(1, columns))
    return [Piece(target, change, range(rows)[first : first + step], columns) for first in range(0, rows, step)]


class _Work:
    """Does pieces in several threads; collects what float16 cannot hold."""

    def __init__(self, pieces: list[Piece], progress: Callable[[int, int], None]) -> None:
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
        space = _Space(files)
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

    def __init__(self, files: Files) -> None:
        self.files = files
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
            if factors or source.dtype != target.dtype:
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
