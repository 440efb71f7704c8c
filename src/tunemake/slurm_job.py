"""What runs inside a Slurm job: one stage over its work folder, and a note of how it ended."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tunemake import cluster
from tunemake.digests import replace_text
from tunemake.job_end import WARNING
from tunemake.process import end_what_is_left, start
from tunemake.stages import DONE, EVENTS, FAULTS, JOB
from tunemake.store import locked

STATUS = f"{cluster.FOLDER}/status.json"
_WARNING = signal.Signals[WARNING]
_KEPT = {JOB, EVENTS, cluster.FOLDER}


def run(stage: str, folder: str, environment: Mapping[str, str], *, resumes: bool) -> None:
    """Run a stage over the job in its work folder; ends as the stage's process does.

    environment: what the stage's says beside. resumes: whether it goes on from what is in the folder; else that goes.
    """
    work = Path(folder)
    told = json.loads((work / JOB).read_text("utf-8"))
    number = os.environ["SLURM_JOB_ID"]
    noted = cluster.note(work)
    if noted is not None and noted["job"] != number:
        sys.exit(f"job {noted['job']} works in {work}, not this one")
    with ExitStack() as held:
        # Whoever sweeps asks these locks. A build that waits holds others, and may be gone.
        own = held.enter_context(locked(_use(work.parent, work.name), fcntl.LOCK_SH))
        for place in told["inputs"].values():
            held.enter_context(locked(_use(work.parent, Path(place).name), fcntl.LOCK_SH))
        if not resumes:
            _clear(work)
        for name in (DONE, FAULTS):
            (work / name).unlink(missing_ok=True)
        _write(work, {"job": number})
        code, got = _watched(lambda: start(stage, work, Path(told["root"]), (dict(environment), [own.fileno()])))
        _write(work, {"job": number, "code": code, "signals": got})
    if code:
        sys.exit(code if code > 0 else 128 - code)  # as a shell does


def status(work: Path, number: str) -> dict[str, Any]:
    """Read what a job noted of itself: code, once its stage ended, and the signals that it got; {} before it began."""
    try:
        told = json.loads((work / STATUS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and told.get("job") == number else {}


def _watched(begin: Callable[[], subprocess.Popen[bytes]]) -> tuple[int, list[str]]:
    """Begin a stage and wait for its end; give its exit code, and the names of the signals handed on to it."""
    got: list[str] = []
    signal.signal(_WARNING, signal.SIG_IGN)  # inherited: Slurm sends it to the stage's processes too
    child = begin()

    def hand_on(number: int, _frame: object) -> None:
        got.append(signal.Signals(number).name)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)

    for number in (_WARNING, signal.SIGTERM):
        signal.signal(number, hand_on)
    code = child.wait()
    end_what_is_left(child)
    return code, got


def _write(work: Path, told: Mapping[str, Any]) -> None:
    replace_text(work / STATUS, json.dumps(told))


def _clear(work: Path) -> None:
    """Remove what a job left here that was ended."""
    for path in work.iterdir():
        if path.name in _KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _use(works: Path, artifact: str) -> Path:
    return works / f"{artifact}.use"
