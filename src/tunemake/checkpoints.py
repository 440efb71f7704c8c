"""The tensors of XTuner's training checkpoints: read without running their pickle, written as safetensors.

Classes that are no tensors become inert stand-ins; a class that is not known to be in checkpoints is refused.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tunemake.distributions import installed_version
from tunemake.faults import Fault, StageError
from tunemake.model_folder import DTYPE_NAMES
from tunemake.tensors import Files, Tensor

BLOCK = 262_144  # values
# What mmengine's message hub and PyTorch's schedulers leave in a checkpoint beside tensors.
INERT = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *("numpy.ndarray", "numpy.dtype", "collections.deque", "collections.defaultdict", "builtins.getattr"),
)
_DEEPSPEED = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler", "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address", "mmengine.config.config.ConfigDict",
)  # fmt: skip


class Inert:
    """Stands in for an object of a checkpoint that is not looked at; keeps nothing, runs nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def load_weights(checkpoint: Path) -> dict[str, Any]:
    """Give the torch tensors by name, mapped from the file; StageError where it cannot be read."""
    import torch

    if checkpoint.is_dir() and installed_version("deepspeed") is None:
        step = f"run {sys.executable} -m pip install 'tunemake[deepspeed]'"
        raise StageError(
            Fault(str(checkpoint), "a DeepSpeed checkpoint, and DeepSpeed is not installed", next_step=step)
        )
    stand_ins = [(Inert, name) for name in INERT]
    try:
        if checkpoint.is_dir():
            weights = _gathered(checkpoint, stand_ins)
        else:
            with torch.serialization.safe_globals(stand_ins):
                content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
            weights = content["state_dict"]
        return {name: tensor.detach() for name, tensor in weights.items()}
    except Exception as error:  # a torn or hostile pickle can raise anything
        told, refused = str(error) or type(error).__name__, re.search(r"GLOBAL (\S+)", str(error))
        what = "holds an object that is no tensor" if refused else "torn or no checkpoint of XTuner"
        got = refused[1] if refused else told.splitlines()[0][:200]
        raise StageError(Fault(str(checkpoint), what, got=got)) from error


def _gathered(checkpoint: Path, stand_ins: Sequence[tuple[type, str]]) -> Mapping[str, Any]:
    """Put the parts of a DeepSpeed checkpoint together by DeepSpeed's own tool; float32, as its optimizer has them."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing is computed; without it DeepSpeed looks for a device
    import torch
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    inert = [(Inert, name) for name in _DEEPSPEED]
    # The tool asks for whole objects; this has torch refuse what is no tensor all the same.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals([*stand_ins, *inert, ZeroStageEnum]), redirect_stdout(sys.stderr):
            found: Mapping[str, Any] = get_fp32_state_dict_from_zero_checkpoint(
                str(checkpoint.parent), checkpoint.name, exclude_frozen_parameters=True
            )
            return found
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def fill(targets: Mapping[str, Tensor], weights: Mapping[str, Any]) -> None:
    """Write the weights; StageError names each tensor with values that are not finite or become so."""
    faults: list[Fault] = []
    with Files() as files:
        for name, target in targets.items():
            broken, lost = _write(files, target, weights[name])
            if broken:
                faults.append(Fault(name, f"{broken} values are not finite", next_step="train from an earlier step"))
            if lost:
                faults.append(Fault(name, f"{lost} finite values are too large for {DTYPE_NAMES[target.dtype]}"))
    if faults:
        raise StageError(faults)


def _write(files: Files, target: Tensor, tensor: Any) -> tuple[int, int]:
    """Write a tensor in blocks; give how many values were not finite, and how many no longer are."""
    import torch

    flat, broken, lost = tensor.reshape(-1), 0, 0
    wanted = getattr(torch, DTYPE_NAMES[target.dtype]) if target.dtype in DTYPE_NAMES else tensor.dtype
    for first in range(0, target.count, BLOCK):
        part = flat[first : first + BLOCK]
        rounded = part.to(wanted)
        finite = int(torch.isfinite(part).sum())
        broken += part.numel() - finite
        lost += finite - int(torch.isfinite(rounded).sum())
        raw = rounded.contiguous().view(torch.uint8).numpy()
        files.write(target, first * wanted.itemsize, raw)
    return broken, lost


def dtype_of(tensor: Any) -> str:
    """Give a torch tensor's dtype as safetensors spells it; StageError where it is no float."""
    told = str(tensor.dtype).removeprefix("torch.")
    short = {name: short for short, name in DTYPE_NAMES.items()}.get(told)
    if short is None:
        raise StageError(Fault("adapter", "weights of a dtype that is no float", got=told))
    return short
