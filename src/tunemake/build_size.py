"""What a build will write to the disk, told from the shapes of the base model's tensors; reads no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunemake.tensors import BYTES, FLOATS, Tensor, read_model

_SHORT = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_FLOAT32, _INT32 = BYTES["F32"], BYTES["I32"]
_STATES = 3  # a value, and the two averages that Adam keeps of it
# Bytes a value; where it is quantised, 32 values share a scale, and in some a least value too, of 2 bytes each.
_EXPORTED = {
    "fp32": 4, "f32": 4, "fp16": 2, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32,
}  # fmt: skip
# The layers that PEFT's "all-linear" leaves out: the output, and embeddings, which are no linear layers.
_NOT_LINEAR = re.compile(r"(^|\.)(lm_head|output|embed_\w+|tok_embeddings|wte|wpe|word_embeddings|score)\.weight$")


def build_size(
    folder: Path, train: Mapping[str, Any], merge: Mapping[str, Any], iterations: int, every: int,
    *, tokens: int = 0, formats: Iterable[str] = (),
) -> dict[str, int]:  # fmt: skip
    """Give about how many bytes training and merging write, by what is written.

    folder: the base model. train, merge: the tables of project.toml. every: iterations between two checkpoints.
    While the newest checkpoint is written, the oldest is still there. tokens: that are written, each with its label.
    formats: what is exported.
    """
    tensors = list(read_model(folder).values())
    made = -(-iterations // every)
    checkpoints = min(made, train["checkpoints"]["keep"] + 1)
    changed = trained_values(tensors, train)
    parts = {"tokens": tokens * 2 * _INT32} if tokens else {}
    parts["checkpoints"] = checkpoints * changed * _FLOAT32 * _STATES
    if train["method"] != "full":
        parts["adapter"] = changed * _FLOAT32
    parts["merged model"] = merged_bytes(tensors, merge["dtype"])
    exported = exported_bytes(tensors, formats)
    return parts | ({"export": exported} if exported else {})


def trained_values(tensors: Iterable[Tensor], train: Mapping[str, Any]) -> int:
    """Give the number of values that a training changes: all of them, or those of an adapter."""
    if train["method"] == "full":
        return sum(tensor.count for tensor in tensors)
    targets = train["lora"]["targets"]
    matrices = [t for t in tensors if len(t.shape) == 2 and _is_target(t.name, targets)]  # noqa: PLR2004 - rows, columns
    return int(train["lora"]["r"]) * sum(sum(tensor.shape) for tensor in matrices)


def exported_bytes(tensors: Iterable[Tensor], formats: Iterable[str]) -> int:
    """Give about the size of what is exported: every value as most of a format's values are kept."""
    values = sum(tensor.count for tensor in tensors)
    return int(sum(values * _EXPORTED[name.partition("-")[2]] for name in formats))


def merged_bytes(tensors: Iterable[Tensor], dtype: str) -> int:
    """Give the size of the merged weights; dtype: as project.toml's merge.dtype."""
    if dtype == "base":
        return sum(tensor.size for tensor in tensors)
    wanted = BYTES[_SHORT[dtype]]
    return sum(tensor.count * wanted if tensor.dtype in FLOATS else tensor.size for tensor in tensors)


def _is_target(name: str, targets: str | list[str]) -> bool:
    module = name.removesuffix(".weight")
    if not name.endswith(".weight"):
        return False
    if targets == "all-linear":
        return _NOT_LINEAR.search(name) is None
    if isinstance(targets, str):  # PEFT's own regular expression
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)
