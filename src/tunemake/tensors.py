"""Safetensors files, read and written by rows: headers, the weights of a model folder, blocks of values.

A file is 8 bytes (the header's length, little-endian), the header (JSON) and the tensors' bytes, no holes.
Nothing here holds a whole tensor unless `load` is asked to, so that memory does not grow with the model.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tunemake.faults import Fault, ModelError

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
FLOATS: dict[str, np.dtype[Any]] = {
    # ml_dtypes casts bfloat16 faster than shifting bits in numpy does, and rounds to nearest even.
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
LONGEST_HEADER = 100_000_000  # the limit of the format's own library
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: dtype as safetensors spells it, offset of its first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def count(self) -> int:
        """Give the number of values."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Give the number of bytes."""
        return self.count * BYTES[self.dtype]


@dataclass(frozen=True)
class Block:
    """A part of a matrix that is contiguous in its file: some rows, or a piece of one row."""

    row: int
    rows: int
    column: int
    columns: int


class Files:
    """Open files by path, shared by threads; a context manager that closes them.

    A read beyond a file's end is a ModelError: the file was cut after its header was read.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Path, int], int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def read(self, tensor: Tensor, first: int, raw: NDArray[np.uint8]) -> None:
        """Fill raw with the tensor's bytes from its byte number `first` on."""
        descriptor, done = self._descriptor(tensor.path, os.O_RDONLY), 0
        while done < raw.size:
            count = os.preadv(descriptor, [raw.data[done:]], tensor.offset + first + done)
            if count == 0:
                raise _torn(tensor.path, f"ends inside {tensor.name}")
            done += count

    def write(self, tensor: Tensor, first: int, raw: NDArray[np.uint8]) -> None:
        """Write raw as the tensor's bytes from its byte number `first` on; the file exists already."""
        descriptor, done = self._descriptor(tensor.path, os.O_WRONLY), 0
        while done < raw.size:
            done += os.pwrite(descriptor, raw.data[done:], tensor.offset + first + done)

    def load(self, tensor: Tensor) -> NDArray[np.float32]:
        """Give the whole tensor as float32, in its shape; its dtype is one of FLOATS."""
        values = np.empty(tensor.shape, FLOATS[tensor.dtype])
        self.read(tensor, 0, values.reshape(-1).view(np.uint8))
        return values.astype(np.float32, copy=False)

    def _descriptor(self, path: Path, flags: int) -> int:
        with self._lock:
            if (path, flags) not in self._open:
                self._open[path, flags] = os.open(path, flags | os.O_CLOEXEC)
            return self._open[path, flags]


def read_header(path: Path) -> dict[str, Tensor]:
    """Give a file's tensors in the order of their bytes; ModelError where the file is torn or invalid."""
    try:
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if total < 8 or length > min(total - 8, LONGEST_HEADER):  # noqa: PLR2004 - the length's own 8 bytes
                raise _torn(path, "its header does not fit into it")
            header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
    except OSError as error:
        raise ModelError(Fault(str(path), f"cannot be read: {error.strerror}")) from error
    except (ValueError, RecursionError) as error:
        raise _torn(path, f"its header is no valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _torn(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    found = sorted((_tensor(path, length + 8, name, told) for name, told in header.items()), key=_place)
    end = length + 8
    for tensor in found:
        if tensor.offset != end:
            raise _torn(path, f"{tensor.name} does not begin where the tensor before it ends")
        end += tensor.size
    if end != total:
        raise _torn(path, "its size is not what its header says", expected=f"{end} bytes", got=f"{total}")
    return {tensor.name: tensor for tensor in found}


def read_model(folder: Path) -> dict[str, Tensor]:
    """Give the tensors of a model folder, shard by shard; ModelError where weights are missing or torn."""
    single = folder / "model.safetensors"
    if single.exists():
        return read_header(single)
    index = folder / INDEX_NAME
    if not index.exists():
        next_step = "convert the model to safetensors" if any(folder.glob("*.bin")) else None
        raise ModelError(Fault(str(folder), f"no model.safetensors and no {INDEX_NAME}", next_step=next_step))
    mapped = _weight_map(index)
    found: dict[str, Tensor] = {}
    for shard in sorted(set(mapped.values())):
        tensors = read_header(folder / shard)
        for name in tensors.keys() & found.keys():
            raise _torn(folder / shard, f"{name} is also in {found[name].path.name}")
        found |= tensors
    faults = [
        Fault(str(index), f"{name} is not in {shard}")
        for name, shard in mapped.items()
        if name not in found or found[name].path.name != shard
    ]
    if faults:
        raise ModelError(faults)
    return found


def create(
    path: Path, specs: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Write a file's header and give its tensors, to be filled by Files.write.

    specs: name, dtype and shape of each tensor. Wider dtypes come first, so that every tensor is aligned.
    """
    ordered = sorted(specs, key=lambda spec: -BYTES[spec[1]])
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name, dtype, shape in ordered:
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    starts = {name: 8 + len(text) + header[name]["data_offsets"][0] for name, _, _ in ordered}
    return {name: Tensor(name, dtype, shape, path, starts[name]) for name, dtype, shape in ordered}


def blocks(rows: range, columns: int, limit: int) -> Iterator[Block]:
    """Cut rows of a matrix into parts of at most limit values; a row longer than that is cut too."""
    if columns == 0:
        return
    if columns > limit:
        for row in rows:
            for column in range(0, columns, limit):
                yield Block(row, 1, column, min(limit, columns - column))
        return
    step = limit // columns
    for row in rows[::step]:
        yield Block(row, min(step, rows.stop - row), 0, columns)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.offset, tensor.size


def _torn(path: Path, what: str, expected: str | None = None, got: str | None = None) -> ModelError:
    return ModelError(Fault(str(path), f"torn or invalid safetensors file: {what}", expected, got))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _tensor(path: Path, begin: int, name: str, told: Any) -> Tensor:
    """Check what a header tells of one tensor."""
    if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
        raise _torn(path, f"{name} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ModelError(Fault(str(path), f"{name} has an unknown dtype", got=str(dtype)))
    if not all(isinstance(side, list) and all(type(n) is int and n >= 0 for n in side) for side in (shape, offsets)):
        raise _torn(path, f"{name} has an invalid shape or offset")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * BYTES[dtype]:  # noqa: PLR2004 - start, end
        raise _torn(path, f"{name} has other offsets than its shape and dtype need")
    return Tensor(name, dtype, tuple(shape), path, begin + offsets[0])


def _weight_map(index: Path) -> dict[str, str]:
    """Give tensor name to shard; a shard outside the folder is refused, whatever way it is written."""
    try:
        told = json.loads(index.read_bytes())
    except (ValueError, OSError) as error:
        raise ModelError(Fault(str(index), f"cannot be read: {error}")) from error
    mapped = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise ModelError(Fault(str(index), "no weight_map"))
    for shard in mapped.values():
        plain = isinstance(shard, str) and shard.endswith(".safetensors") and shard == os.path.basename(shard)  # noqa: PTH119 - a name, not a path
        if not plain or "\\" in shard or "\0" in shard:
            raise ModelError(Fault(str(index), "not the name of a shard in this folder", got=repr(shard)))
    return dict(mapped)
