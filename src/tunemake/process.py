"""Runs a stage in a process of its own: its group, its log, its progress, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunemake.faults import Fault, InputError, StageError, StoppedError
from tunemake.project import machine_environment
from tunemake.shares import Share
from tunemake.stages import DONE, EVENTS, FAULTS, JOB, LOG, Job

_GRACE_SECONDS = 20.0  # time for a training to save a checkpoint of a large model; all others end at once
_LOG_LINES = 15
_SIGNALLED = 128  # exit codes above it stand for signals, as in a shell
_LONGEST_CAUSE = 300
# The merge's products are small and run in threads of its own; more threads inside each only wait for each other.
_ENVIRONMENTS = {"merge": {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}}
# How long OpenMP's threads spin before they sleep. Its default loses several times the speed as soon as anything else
# wants a core, since spinning threads keep it from the one that they wait for; alone, this is as fast.
SHORT_SPIN = {"GOMP_SPINCOUNT": "1000"}
_CACHES = {"HF_DATASETS_CACHE": ".datasets", "HF_MODULES_CACHE": ".modules", "MPLCONFIGDIR": ".matplotlib"}
Event = Mapping[str, Any]
RunStage = Callable[[str, Job, Share, Callable[[Event], None]], dict[str, Any]]  # as run_stage


def run_stage(stage: str, job: Job, share: Share, watch: Callable[[Event], None]) -> dict[str, Any]:
    """Run a stage over its job; give the facts that it tells.

    share: what its environment says beside, and descriptors of locks that the process holds too. watch: is given each
    event as it comes.
    Raises InputError or StageError with the stage's faults, and StoppedError after SIGINT or SIGTERM.
    """
    prepare(job)
    child = start(stage, job.work, job.root, share)
    return outcome(stage, _follow(child, job.work, watch), job)


def prepare(job: Job) -> None:
    """Leave the job for the stage's process, and nothing of an earlier one's end."""
    told = {
        "root": str(job.root), "parameters": job.parameters, "runtime": job.runtime,
        "inputs": {role: str(folder) for role, folder in job.inputs.items()},
    }  # fmt: skip
    (job.work / JOB).write_text(json.dumps(told, ensure_ascii=False), "utf-8")
    for name in (DONE, FAULTS, EVENTS):
        (job.work / name).unlink(missing_ok=True)


def start(stage: str, work: Path, root: Path, share: Share) -> subprocess.Popen[bytes]:
    """Start a stage over the job that lies in its work folder, in a group of its own.

    The group ends when its standard input closes, which it does with this process. share: as run_stage's.
    """
    environment = {**SHORT_SPIN, **machine_environment(), **_ENVIRONMENTS.get(stage, {}), "PYTHONUNBUFFERED": "1"}
    environment |= share[0]
    environment["TUNEMAKE_BUILD"] = str(os.getpid())
    # What these libraries keep between runs (tables made of data, copies of a model's own code) would lie outside
    # of the build and outlive it; hidden in the work folder, it goes when the stage has ended.
    environment |= {name: str(work / place) for name, place in _CACHES.items()}
    with (work / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tunemake.stages", stage, str(work)],
            cwd=root, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
            start_new_session=True, pass_fds=share[1],
        )  # fmt: skip


def outcome(stage: str, code: int, job: Job) -> dict[str, Any]:
    """Give the facts that a stage's process told; raises InputError or StageError where it failed. code: its end."""
    if code == 0 and (job.work / DONE).exists():
        facts: dict[str, Any] = json.loads((job.work / DONE).read_text("utf-8"))
        if not (job.work / LOG).stat().st_size:
            (job.work / LOG).unlink()
        return facts
    raise _failure(stage, code, job)


@contextmanager
def stopping() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block with StoppedError; in another thread than the main one nothing is heard."""
    heard = threading.current_thread() is threading.main_thread()  # `doit -P thread` runs stages in others
    before = {number: signal.getsignal(number) for number in ((signal.SIGINT, signal.SIGTERM) if heard else ())}
    if heard:
        signal.signal(signal.SIGTERM, _raise_stopped)
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(Fault("build", "interrupted"), signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(child: subprocess.Popen[bytes], work: Path, watch: Callable[[Event], None]) -> int:
    tail = Tail(work / EVENTS)
    with stopping():
        try:
            while child.poll() is None:
                for event in tail.new_events():
                    watch(event)
                time.sleep(0.05)
            for event in tail.new_events():
                watch(event)
        except BaseException:
            _end_group(child)
            raise
        finally:
            end_what_is_left(child)
    return child.returncode


def end_what_is_left(child: subprocess.Popen[bytes]) -> None:
    """End what a stage's process had started, and it too.

    Where the stage was killed alone, that would work on in a folder that the next build takes.
    """
    if child.stdin is not None:
        child.stdin.close()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _raise_stopped(number: int, _frame: object) -> None:
    raise StoppedError(Fault("build", "terminated"), number)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End the stage and all that it started: politely, then for good; further signals change nothing about it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _failure(stage: str, code: int, job: Job) -> InputError | StageError:
    content = _told_faults(job.work / FAULTS)
    if content is not None:
        faults = [Fault(**fault) for fault in content["faults"]]
        return InputError(faults) if content["exit_code"] == InputError.exit_code else StageError(faults)
    lines = (job.work / LOG).read_text("utf-8", errors="replace").splitlines()
    log = (job.work / LOG).relative_to(job.root) if (job.work / LOG).is_relative_to(job.root) else job.work / LOG
    fault = Fault(stage, _cause(code, lines), next_step=f"its log: {log}")
    return StageError([fault, *(Fault("  log", line) for line in lines[-_LOG_LINES:])])


def _told_faults(path: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # it told none, or a full disk cut them short
        return None
    return told


def _cause(code: int, lines: list[str]) -> str:
    ended_by = -code if code < 0 else code - _SIGNALLED  # of the stage's process itself, or of one below it
    if ended_by == signal.SIGKILL:
        return "was killed (signal 9), most often for want of memory"
    if ended_by > 0:
        return f"was ended by signal {ended_by}"
    # The last line of a traceback that is not indented names the exception.
    named = [line for line in lines if line and not line[0].isspace() and ("Error" in line or "Exception" in line)]
    if not named:
        return f"failed with exit code {code}"
    last = max(index for index, line in enumerate(lines) if line == named[-1])
    return "failed: " + " ".join(" ".join(lines[last:]).split())[:_LONGEST_CAUSE]


class Tail:
    """Reads the whole lines that have been added to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new_events(self) -> list[Event]:
        """Give the events of the lines that came since the last look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
