"""A stage's share of the machine: a GPU of its own, and threads beside what else this build runs."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tunemake.faults import Fault, StageError

_LOOK_SECONDS = 0.5
_NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that the driver has
Share = tuple[dict[str, str], list[int]]


@contextmanager
def share(machine: Mapping[str, Any], say: Callable[[str], None]) -> Iterator[Share]:
    """Hold a stage's share; gives what its environment must say, and descriptors that its process must hold too.

    machine: the project's [machine] table. A GPU is taken by a lock that all of a user's builds on this machine know;
    the kernel drops it when the last process that holds it ends. say: told where the stage has to wait for one.
    """
    threads = _threads(machine)
    gpus = _gpus(machine, os.environ)
    if not gpus:
        yield threads, []
        return
    gpu, file = _taken(gpus, machine["trainings_per_gpu"], say)
    with file:
        yield threads | {"CUDA_VISIBLE_DEVICES": gpu}, [file.fileno()]


def side_by_side(arguments: Sequence[str]) -> int:
    """Give how many tasks doit runs at once, by its command line: -n 2, -n2, --process=2."""
    told = re.search(r"(?:^|\s)(?:-n\s*|--process[\s=])(\d+)", " ".join(arguments))
    return max(1, int(told[1])) if told else 1


def _threads(machine: Mapping[str, Any]) -> dict[str, str]:
    count = machine.get("threads")
    together = side_by_side(sys.argv[1:])
    if count is None:
        if together == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        count = max(1, _cores() // together)
    return {"OMP_NUM_THREADS": str(count)}


def _gpus(machine: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Name the GPUs that stages may have, as CUDA_VISIBLE_DEVICES does; what that lets be seen is all there is."""
    told, visible = machine.get("gpus"), environment.get("CUDA_VISIBLE_DEVICES")
    seen = None if visible is None else [name for name in visible.split(",") if name and name != "-1"]
    if isinstance(told, list):
        named = [str(gpu) for gpu in told]
        return named if seen is None else [gpu for gpu in named if gpu in seen] or seen
    there = _driven() if seen is None else seen
    if told is None or seen is not None:
        return there[:told]
    return (there or [str(number) for number in range(told)])[:told]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _driven() -> list[str]:
    return [str(number) for number in range(len(list(_NVIDIA.iterdir())))] if _NVIDIA.is_dir() else []


def _taken(gpus: list[str], each: int, say: Callable[[str], None]) -> tuple[str, IO[str]]:
    folder, waited = _folder(), False
    while True:
        for turn in range(each):
            for gpu in gpus:
                file = (folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}-{turn}.lock").open("a+")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                else:
                    return gpu, file
        if not waited:
            say(f"waiting for a GPU; {', '.join(gpus)} {'is' if len(gpus) == 1 else 'are'} taken by other stages")
            waited = True
        time.sleep(_LOOK_SECONDS)


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"tunemake-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StageError(Fault(str(folder), "belongs to another user", next_step="set TMPDIR to a folder of your own"))
    return folder
