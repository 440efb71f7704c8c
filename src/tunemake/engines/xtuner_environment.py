"""What mmengine logs before a training: it would import torchvision for its version, and ask compilers for theirs."""

from __future__ import annotations

import importlib.metadata
import platform

_TOLD = ("torch", "torchvision", "transformers", "peft", "mmengine", "xtuner")


def shorten() -> None:
    """Have versions logged as they are installed; to be called before mmengine.runner is imported."""
    from mmengine.utils import dl_utils

    dl_utils.collect_env = _environment


def _environment() -> dict[str, str]:
    import torch

    there = torch.cuda.is_available()
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count() if there else 0)]
    versions = {name: _version(name) for name in _TOLD}
    return {"Python": platform.python_version(), "GPUs": ", ".join(devices) or "none", **versions}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # not by this name: mmengine-lite, a folder on the path
        return "?"
