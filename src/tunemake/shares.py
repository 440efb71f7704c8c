"""A stage's share of the machine: a GPU of its own, and threads beside what else this build runs."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from tunemake.faults import Fault, StageError

_LOOK_SECONDS = 0.5
_NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that the driver has
Share = tuple[dict[str, str], list[int]]


@contextmanager
def share(machine: Mapping[str, Any], say: Callable[[str], None], processes: int = 1) -> Iterator[Share]:
    """Hold a stage's share; gives what its environment must say, and descriptors that its process must hold too.

    machine: the project's [machine] table. processes: of the stage, each with a GPU of its own. A GPU is taken
    by a lock that all of a user's builds on this machine know; the kernel drops it when the last process that holds it
    ends. say: told where the stage has to wait for one.
    """
    told = threads(machine, processes)
    gpus = _gpus(machine, os.environ)
    if not gpus:
        yield told, []
        return
    if len(gpus) < processes:
        raise StageError(Fault("launch.gpus", "more than stages may have", f"at most {len(gpus)}", str(processes)))
    taken = _taken(gpus, machine["trainings_per_gpu"], processes, say)
    with ExitStack() as held:
        for file in taken.values():
            held.enter_context(file)
        yield told | {"CUDA_VISIBLE_DEVICES": ",".join(taken)}, [file.fileno() for file in taken.values()]


def side_by_side(arguments: Sequence[str]) -> int:
    """Give how many tasks doit runs at once, by its command line: -n 2, -n2, --process=2."""
    told = re.search(r"(?:^|\s)(?:-n\s*|--process[\s=])(\d+)", " ".join(arguments))
    return max(1, int(told[1])) if told else 1


def threads(machine: Mapping[str, Any], processes: int = 1) -> dict[str, str]:
    """Give what a stage's environment must say for its share of the threads: torch's, and those of tokenizers."""
    count = machine.get("threads")
    together = side_by_side(sys.argv[1:]) * processes
    if count is None:
        if together == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        count = max(1, _cores() // together)
    return {"OMP_NUM_THREADS": str(count), "RAYON_NUM_THREADS": str(count)}


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


def _taken(gpus: list[str], each: int, wanted: int, say: Callable[[str], None]) -> dict[str, IO[str]]:
    """Take as many GPUs as are wanted, or none of them: two that each hold a part would wait for each other."""
    folder, waited = _folder(), False
    while True:
        taken: dict[str, IO[str]] = {}
        for turn in range(each):
            for gpu in gpus:
                file = None if gpu in taken or len(taken) == wanted else _lock(folder, gpu, turn)
                if file is not None:
                    taken[gpu] = file
        if len(taken) == wanted:
            return taken
        for file in taken.values():
            file.close()
        if not waited:
            what = "a GPU" if wanted == 1 else f"{wanted} GPUs"
            say(f"waiting for {what}; {', '.join(gpus)} {'is' if len(gpus) == 1 else 'are'} taken by other stages")
            waited = True
        time.sleep(_LOOK_SECONDS)


def _lock(folder: Path, gpu: str, turn: int) -> IO[str] | None:
    file = (folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}-{turn}.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"tunemake-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StageError(Fault(str(folder), "belongs to another user", next_step="set TMPDIR to a folder of your own"))
    return folder
