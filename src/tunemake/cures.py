"""Cures for what today's libraries lack beside each other, each applied just before the module that needs it.

XTuner 0.2.0 pins transformers 4.48 and bitsandbytes 0.45; torch and torchvision have moved on since.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from tunemake import later_imports


def _torchvision_operators() -> None:
    # PyPI's torchvision is a CUDA build: beside a CPU build of torch its operators cannot load, and the import of
    # torchvision, which XTuner cannot do without, ends in "operator torchvision::nms does not exist".
    import torch

    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)


def _cpu_bf16() -> None:
    # XTuner asks torch.cpu.is_bf16_supported(), which torch.cpu has not. False keeps automatic choices off bf16,
    # which most CPUs only emulate.
    import torch

    if not hasattr(torch.cpu, "is_bf16_supported"):
        torch.cpu.is_bf16_supported = lambda: False


def _cpu_processes() -> None:
    # mmengine's launcher calls torch.cuda.set_device whatever the device.
    import torch

    if not torch.cuda.is_available():
        torch.cuda.set_device = lambda _device: None


def _triton_operators() -> None:
    # bitsandbytes 0.45.0, which XTuner pins, imports triton.ops, which triton 3 has not: with a CUDA build of torch
    # that ends the import of peft. The functions are used by int8 kernels alone; calling one says what to install.
    try:
        import triton
    except ImportError:
        return
    if hasattr(triton, "ops"):
        return

    def missing(*_args: Any, **_kwargs: Any) -> None:
        message = "this bitsandbytes is too old for triton: pip install -U 'bitsandbytes>=0.48'"
        raise RuntimeError(message)

    names = ("early_config_prune", "estimate_matmul_time")
    package, module = types.ModuleType("triton.ops"), types.ModuleType("triton.ops.matmul_perf_model")
    for name in names:
        setattr(module, name, missing)
    package.__path__ = []
    sys.modules["triton.ops"], sys.modules["triton.ops.matmul_perf_model"] = package, module


def _unpacked_on_cpu() -> None:
    # Where a CPU has AVX512-BF16, bitsandbytes packs weights anew for whatever asks a model in evaluation: their scales
    # lose half of their bits, and the packed product has no gradient, so that no training could go on.
    import torch

    if not torch.cuda.is_available():
        import bitsandbytes.functional

        bitsandbytes.functional.has_avx512bf16 = lambda: False


def _four_bits_on_cpu() -> None:
    # transformers 4.48 takes a CPU for unfit for 4 bits, unless Intel's own extension is there, and fails to say so.
    import torch

    if not torch.cuda.is_available():
        from transformers.integrations import bitsandbytes

        bitsandbytes.validate_bnb_backend_availability = lambda **_: True


_CURES: dict[str, Callable[[], None]] = {
    "torchvision._meta_registrations": _torchvision_operators,
    "xtuner.utils.device": _cpu_bf16,
    "mmengine.dist.utils": _cpu_processes,
    "bitsandbytes": _triton_operators,
    "bitsandbytes.backends.cpu.ops": _unpacked_on_cpu,
    "xtuner.model.sft": _four_bits_on_cpu,
}


class _Before(importlib.abc.MetaPathFinder):
    """Applies a cure just before its module is looked for, and puts off what is not needed yet."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        cure = _CURES.pop(fullname, None)
        if cure is not None:
            cure()
        return later_imports.spec_of(fullname, path)


def install_cures() -> None:
    """Make the cures wait for their modules in this process."""
    if not any(isinstance(finder, _Before) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Before())
