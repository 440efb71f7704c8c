"""Runs one of XTuner's tools in this process, with cures for what its 0.2.0 lacks beside current libraries.

    python -m tunemake.engines.xtuner_process train CONFIG --work-dir DIR
    python -m tunemake.engines.xtuner_process pth_to_hf CONFIG CHECKPOINT DIR

XTuner's own command exits 0 whatever happens; its tools, run this way, give real exit codes. Each cure waits until the
module that needs it is imported, so none is paid for where it is not needed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

TOOLS = {
    "train": "xtuner.tools.train",
    "pth_to_hf": "xtuner.tools.model_converters.pth_to_hf",
    "merge": "xtuner.tools.model_converters.merge",
    "chat": "xtuner.tools.chat",
    "list-cfg": "xtuner.tools.list_cfg",
    "copy-cfg": "xtuner.tools.copy_cfg",
}


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


_CURES: dict[str, Callable[[], None]] = {
    "torchvision._meta_registrations": _torchvision_operators,
    "xtuner.utils.device": _cpu_bf16,
    "mmengine.dist.utils": _cpu_processes,
    "bitsandbytes": _triton_operators,
}


class _Before(importlib.abc.MetaPathFinder):
    """Applies a cure just before its module is looked for; finds nothing itself."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        cure = _CURES.pop(fullname, None)
        if cure is not None:
            cure()
        return None


def install_cures() -> None:
    """Make the cures wait for their modules in this process."""
    if not any(isinstance(finder, _Before) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Before())


def run_tool(tool: str, arguments: Sequence[str]) -> None:
    """Run a tool as `python -m` would, here; ends by returning or by the tool's own exception."""
    install_cures()
    # Files that this project itself made are the only checkpoints resumed from; torch would refuse mmengine's
    # history objects in them.
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sys.argv = [TOOLS[tool], *arguments]
    runpy.run_module(TOOLS[tool], run_name="__main__", alter_sys=True)


def main() -> None:
    """Take the tool's name from the command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in TOOLS:  # noqa: PLR2004 - the program and the tool
        sys.exit(f"usage: python -m tunemake.engines.xtuner_process {{{','.join(TOOLS)}}} ...")
    run_tool(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    main()
