"""What this machine has that a training needs: CUDA devices, libraries, room on the disk. Imports none of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunemake.distributions import installed_version
from tunemake.faults import Fault
from tunemake.findings import Finding, errors, unchecked

_OLDEST_BITSANDBYTES = (0, 48)
_OLDEST_ON_CPU = (0, 50)
_AMPERE = 8  # the first compute capability with bfloat16
_DRIVER = Path("/proc/driver/nvidia/gpus")
_OTHER_WAYS = (Path("/dev/kfd"), Path("/dev/dxg"))  # ROCm, and Windows' own way into Linux
_USED = 0.9  # of the memory; the rest is the driver's, and lost between what is allocated
_NEEDED = ("torch", "transformers", "xtuner", "peft", "datasets", "accelerate")


@dataclass(frozen=True)
class Memory:
    """What a training may take of a device, in bytes; None where the device is not here. of_gpu: it is a GPU's."""

    size: int | None
    of_gpu: bool


def cuda_devices(environment: Mapping[str, str]) -> int | None:
    """Give the number of CUDA devices that a process would see; None where it cannot be told without torch."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return 0
    listed = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    found = listed or len(list(Path("/dev").glob("nvidia[0-9]*"))) or _asked()
    if not found and any(path.exists() for path in _OTHER_WAYS):
        return None
    return min(found, len(visible.split(","))) if visible is not None else found


def best_precision(environment: Mapping[str, str]) -> str:
    """Give the fastest type that trainings keep to on this machine: bfloat16, float16, or float32 without a GPU."""
    if cuda_devices(environment) == 0:
        return "float32"
    told = _tool("--query-gpu=compute_cap", "--format=csv,noheader")
    found = re.findall(r"^(\d+)\.\d+$", told, re.MULTILINE)
    if not found:  # ROCm, Windows' own way into Linux: only torch can tell
        code = "import torch; print(torch.cuda.is_available() and torch.cuda.is_bf16_supported())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        return "bfloat16" if done.stdout.strip() == "True" else "float32"
    return "bfloat16" if min(map(int, found)) >= _AMPERE else "float16"


def device_memory(
    environment: Mapping[str, str], machine: Mapping[str, Any], train: Mapping[str, Any], processes: int, *, here: bool
) -> Memory:
    """Give what a training may take of each device.

    machine, train: the tables of project.toml; machine.memory, where it is given, is what counts. processes: of the
    training, which share a CPU. here: it runs on this machine.
    """
    gpu = cuda_devices(environment) != 0
    if (told := machine.get("memory")) is not None:
        return Memory(round(told * 1e9), gpu or needs_gpu(train) is not None)
    if not here or (not gpu and needs_gpu(train) is not None):
        return Memory(None, of_gpu=True)
    if not gpu:
        return Memory(round(_USED * _free_memory() / processes), of_gpu=False)
    found = re.findall(r"^\d+$", _tool("--query-gpu=memory.total", "--format=csv,noheader,nounits"), re.MULTILINE)
    each = min(map(int, found)) * 2**20 / machine["trainings_per_gpu"] if found else None
    return Memory(None if each is None else round(_USED * each), of_gpu=True)


def gpu_findings(train: Mapping[str, Any], gpus: int, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Tell where a training needs CUDA devices and there are too few, or torch could not use them.

    gpus: how many it wants; where there is none at all, so many processes train on the CPU.
    """
    if (there := cuda_devices(environment)) and there < gpus:
        yield Finding("error", "few_gpus", few_gpus(gpus, there))
    what = needs_gpu(train)
    if what is None:
        return
    if (fault := absent_gpu(train, environment)) is not None:
        yield Finding("error", "no_gpu", fault)
        return
    version = installed_version("torch")
    if there is None:
        yield unchecked(what[0], f"{what[1]} needs a CUDA GPU, and only torch can tell whether one is here")
    if version is not None and version.endswith("+cpu"):
        fault = Fault(what[0], f"{what[1]} needs a torch built for CUDA", got=f"torch {version}")
        yield Finding("error", "no_gpu", fault)


def needs_gpu(train: Mapping[str, Any]) -> tuple[str, str] | None:
    """Say what about a training needs a CUDA device: the name of the value, and it with the value. None: nothing."""
    if train["method"] == "qlora" and not _has_bitsandbytes(_OLDEST_ON_CPU):
        return "train.method", "qlora"
    if train["precision"] != "float32":
        return "train.precision", str(train["precision"])
    return None


def absent_gpu(train: Mapping[str, Any], environment: Mapping[str, str]) -> Fault | None:
    """Give the fault of a training that needs a CUDA device where there is surely none; train: the table."""
    what = needs_gpu(train)
    return no_gpu(*what) if what is not None and cuda_devices(environment) == 0 else None


def no_gpu(value: str, what: str) -> Fault:
    """Give the fault of a missing CUDA device; value, what: as needs_gpu gives them."""
    step = 'method = "lora" with precision = "float32" runs on a CPU'
    if what == "qlora":
        step += ", and so does qlora with bitsandbytes>=0.50"
    return Fault(value, f"{what} needs a CUDA GPU, and none is here", next_step=step)


def few_gpus(wanted: int, there: int) -> Fault:
    """Give the fault of a training that wants more GPUs than there are."""
    return Fault("launch.gpus", "more than this machine has", expected=f"at most {there}", got=str(wanted))


def no_deepspeed(python: str) -> Fault:
    """Give the fault of a training under DeepSpeed without it. python: the command of this one."""
    line = f"{python} -m pip install 'tunemake[deepspeed]'"
    return Fault("train.deepspeed", "DeepSpeed is not installed", next_step=f"run {line}")


def library_findings(train: Mapping[str, Any], python: str) -> Iterator[Finding]:
    """Tell which libraries the training wants that are not installed, or too old. python: the command of this one."""
    if missing := [name for name in _NEEDED if installed_version(name) is None]:
        fault = Fault(
            "train", f"not installed: {', '.join(missing)}", next_step=f"{python} -m pip install 'tunemake[train]'"
        )
        yield Finding("error", "not_installed", fault)
    if train["method"] == "qlora" and (old := old_bitsandbytes(python)) is not None:
        yield from errors("bitsandbytes", [old])
    if "deepspeed" in train and installed_version("deepspeed") is None:
        yield Finding("error", "not_installed", no_deepspeed(python))
    if train["precision"] == "bfloat16" and installed_version("liger-kernel") is None:
        line = f"run {python} -m pip install 'tunemake[kernels]'"
        fault = Fault("train", "liger-kernel is not installed, without which bfloat16 trains slower", next_step=line)
        yield Finding("note", "no_kernels", fault)


def old_bitsandbytes(python: str) -> Fault | None:
    """Give the fault of a bitsandbytes that qlora cannot use, or None.

    XTuner pins 0.45.0, whose kernels a current CUDA build of torch cannot load.
    """
    if _has_bitsandbytes(_OLDEST_BITSANDBYTES):
        return None
    found = installed_version("bitsandbytes") or "none"
    line = f"{python} -m pip install -U 'bitsandbytes>=0.48'"
    return Fault("train.method", "qlora needs a current bitsandbytes", ">=0.48", found, f"run {line}")


def _has_bitsandbytes(oldest: tuple[int, int]) -> bool:
    found = installed_version("bitsandbytes")
    return found is not None and tuple(map(int, found.split(".")[:2])) >= oldest


def room_findings(needed: int, free: int, parts: Mapping[str, int]) -> Iterator[Finding]:
    """Tell where a build would write more than is free. needed, free: bytes; parts: of needed, by what is written."""
    told = ", ".join(f"{name} {size(part)}" for name, part in parts.items() if part)
    if needed > free:
        step = "free some, or keep fewer checkpoints (train.checkpoints.keep)"
        fault = Fault(
            "build", "not enough room on the disk", f"about {size(needed)} ({told})", f"{size(free)} free", step
        )
        yield Finding("error", "disk", fault)
    elif needed > free * 0.9:
        fault = Fault("build", f"the disk will be nearly full: about {size(needed)} of {size(free)} ({told})")
        yield Finding("warning", "disk", fault)


def size(number: int) -> str:
    """Write bytes as a person would say them."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - the units' own step
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"  # noqa: PLR2004
        value /= 1000
    return f"{value:.1f} TB"


def _free_memory() -> int:
    """Give the bytes that programs may still take; where the system does not say, all that there are."""
    if (told := Path("/proc/meminfo")).is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", told.read_text("utf-8"), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _asked() -> int:
    """Ask the driver's own tool for its devices, where there is no list of them to read."""
    return sum(line.startswith("GPU ") for line in _tool("-L").splitlines())


def _tool(*arguments: str) -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
