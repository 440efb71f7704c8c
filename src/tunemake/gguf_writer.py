"""Writes a model as a GGUF file, block by block with numpy: one head or a million values are in memory, never a tensor.

The `gguf` package writes the header and rounds the values; what it cannot quantise in Python is no kind of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tunemake.faults import Fault, StageError
from tunemake.gguf_layout import Part
from tunemake.tensors import BYTES, FLOATS, Files

KINDS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
_GROUP = 32  # values that share a scale, in every quantised kind of these
_BLOCK = 1 << 20  # values rounded at a time
_ALIGNMENT = 32  # of a tensor's first byte, where a file does not say otherwise
_BELOW_8_BITS = {"q5_1", "q5_0", "q4_1", "q4_0"}
_EMBEDDINGS = {"token_embd.weight", "output.weight"}


def write_gguf(
    path: Path, kind: str, metadata: Mapping[str, Any], parts: list[Part], progress: Callable[[int, int], None]
) -> dict[str, int]:
    """Write the file; give the number of tensors of each kind in it.

    kind: one of KINDS, for matrices; vectors stay float32. metadata: by GGUF's keys, general.architecture among them;
    an int is a uint32, a float a float32. progress: called after each
    tensor with values done, and values in all.
    Below 8 bits the embeddings are q8_0, which costs little and spares the answers most. Rows that are no multiple of
    32 cannot be quantised, and are float16. StageError for values that a kind cannot hold.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quant_shape_to_byte_shape

    kinds = {part.name: kind_of(part, kind) for part in parts}
    writer = GGUFWriter(str(path), metadata["general.architecture"])
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    writer.add_file_type(_file_type(kind))
    writer.add_quantization_version(2)
    for part in parts:
        stored = GGMLQuantizationType[kinds[part.name].upper()]
        size = int(np.prod(quant_shape_to_byte_shape(part.shape, stored)))
        writer.add_tensor_info(part.name, part.shape, np.dtype(np.float32), size, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    done, total = 0, sum(_count(part) for part in parts)
    with Files() as files, path.open("ab") as out:
        for part in parts:
            _align(out)
            for values in _blocks(files, part):
                out.write(_rounded(part.name, values, kinds[part.name]))
            done += _count(part)
            progress(done, total)
        _align(out)
    return {one: list(kinds.values()).count(one) for one in KINDS if one in kinds.values()}


def kind_of(part: Part, kind: str) -> str:
    """Give the kind that a tensor is stored in where its file is of a kind."""
    if len(part.shape) == 1:
        return "f32"
    if kind in {"f32", "f16", "bf16"}:
        return kind
    if part.columns % _GROUP:
        return "f16"
    return "q8_0" if kind in _BELOW_8_BITS and part.name in _EMBEDDINGS else kind


def _count(part: Part) -> int:
    return part.shape[0] * part.columns


def _add(writer: Any, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def _file_type(kind: str) -> int:
    from gguf import LlamaFileType

    name = "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"
    return int(LlamaFileType[name])


def _align(out: BinaryIO) -> None:
    out.write(bytes(-out.tell() % _ALIGNMENT))


def _blocks(files: Files, part: Part) -> Iterator[NDArray[np.float32]]:
    """Give a tensor's rows as they lie in the GGUF, some at a time."""
    source, columns = part.source, part.columns
    step = part.head or max(1, _BLOCK // max(1, columns))
    for rows in part.rows:
        for first in range(rows.start, rows.stop, step):
            count = min(step, rows.stop - first)
            stored = np.empty((count, columns), FLOATS[source.dtype])
            files.read(source, first * columns * BYTES[source.dtype], stored.reshape(-1).view(np.uint8))
            with np.errstate(over="ignore"):  # float64 beyond float32: told when it is rounded
                values = stored.astype(np.float32, copy=False)
            yield interleaved(values) if part.head else values


def interleaved(head: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give a head's rows with its two halves in turns: Hugging Face's order to llama.cpp's."""
    return head.reshape(2, len(head) // 2, -1).swapaxes(0, 1).reshape(head.shape)


def _rounded(name: str, values: NDArray[np.float32], kind: str) -> bytes:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    if not np.isfinite(values).all():
        raise StageError(Fault("export", f"{name} holds values that are not finite"))
    with np.errstate(all="ignore"):  # a group of zeros has no scale; what float16 cannot hold is told below
        made = quantize(values, GGMLQuantizationType[kind.upper()])
    # A quantised group's scale is a float16, so that it overflows where the largest value does.
    if kind not in {"f32", "bf16"} and np.abs(values).max(initial=0) > _largest(kind):
        step = "export gguf-bf16 or gguf-f32"
        raise StageError(Fault("export", f"{name} holds values that {kind} cannot", next_step=step))
    return np.ascontiguousarray(made).tobytes()


def _largest(kind: str) -> float:
    """Give the largest value that is surely held: float16's, times the steps from 0 to the end of a scale."""
    return float(np.finfo(np.float16).max) * {"f16": 1, "q8_0": 127, "q5_0": 16, "q4_0": 8}.get(kind, 0.5)
