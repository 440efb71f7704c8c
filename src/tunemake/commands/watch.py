"""tunemake watch: follows a training that another terminal started; reads what it writes, and touches nothing of it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tunemake.artifacts import RECORD
from tunemake.engines.xtuner import METRICS
from tunemake.faults import Fault, InputError, did_you_mean
from tunemake.project import load_variants
from tunemake.stages import JOB
from tunemake.store import Store

_LOOK = 0.5  # seconds between two looks
_QUIET = 10.0  # between two lines where they go into a pipe
_TAIL = 16_384  # bytes at the end of a file that are read for its last lines
_RECENT = 20  # iterations whose pace the rest is reckoned by


@dataclass(frozen=True)
class Training:
    """A training that runs. variant: the first that it is for. work: its folder; entry: where it will be when done."""

    variant: str
    work: Path
    entry: Path

    def runs(self) -> bool:
        """Say whether its build still holds its lock."""
        return _is_held(self.work.with_name(f"{self.work.name}.lock"))

    def told(self) -> dict[str, Any] | None:
        """Give iteration, iterations, loss, tokens a second and seconds left; None before the first iteration."""
        rows = _last_rows(self.work / METRICS) or _last_rows(self.entry / METRICS)
        if not rows:
            return None
        last, seconds = rows[-1], sum(row["seconds"] for row in rows)
        steps = rows[-1]["iteration"] - rows[0]["iteration"] + 1  # a line may be of several iterations
        left = (last["iterations"] - last["iteration"]) * seconds / max(steps, 1)
        speed = sum(row["tokens"] for row in rows) / max(seconds, 1e-9)
        return {**last, "speed": speed, "left": left}


def watch(root: Path, variant: str | None, say: Callable[[str], None], *, live: bool) -> int:
    """Follow the training that runs until it ends; give 0, or 1 where it ended without being done.

    live: one line that changes, on stderr; else a line now and then, by say. Raises InputError where several run and
    none is named, and for a variant that the project does not have.
    """
    names = [project.variant.name for project in load_variants(root)]
    if variant is not None and variant not in names:
        step = did_you_mean(variant, names) or ", ".join(names)
        raise InputError(Fault(variant, "no such variant", next_step=step))
    running = list(trainings(root))
    known = {training.variant: training for training in running}
    if variant is None and len(known) > 1:
        raise InputError(Fault("watch", "several trainings run", next_step=f"name one: {', '.join(sorted(known))}"))
    training = known.get(variant) if variant is not None else next(iter(running), None)
    if training is None:
        say(f"no training of {variant} is running" if variant is not None else "no training is running")
        return 0
    told = _follow(training, say, live=live)
    where = f"at iteration {told['iteration']} of {told['iterations']}" if told else "before its first iteration"
    if not (training.entry / RECORD).exists():
        say(f"train: ended {where}, and is not done; doit goes on with it")
        return 1
    say(f"train: done {where}" + (f", loss {told['loss']:.3f}" if told else ""))
    return 0


def trainings(root: Path) -> Iterator[Training]:
    """Give the trainings of a project that run now."""
    store = Store(root, load_variants(root)[0].store.get("path"))
    for work in sorted(store.works.glob("train-*/")):
        try:
            job = json.loads((work / JOB).read_text("utf-8"))
            of, variant = Path(job["root"]), Path(job["runtime"]["links"]["data"]).parts[1]
        except (OSError, ValueError, LookupError):
            continue  # one about to begin, or of a version that told other things
        training = Training(variant, work, store.entries / work.name)
        if of.resolve() == root.resolve() and training.runs():
            yield training


def _follow(training: Training, say: Callable[[str], None], *, live: bool) -> dict[str, Any] | None:
    from tunemake.progress import live_line

    spoken, before = 0.0, None
    with live_line(times=False) if live else nullcontext() as line:
        bar = line.add_task("train", total=None, text="") if line else None
        while True:
            runs = training.runs()  # asked before the file is read: what comes after the last look is not lost
            told = training.told()
            if told and line and bar is not None:
                line.update(bar, completed=told["iteration"], total=told["iterations"], text=_text(told))
            elif told and told["iteration"] != before and time.monotonic() - spoken > _QUIET:
                before, spoken = told["iteration"], time.monotonic()
                say(f"train {told['iteration']}/{told['iterations']}  {_text(told)}")
            if not runs:
                return told
            time.sleep(_LOOK)


def _text(told: dict[str, Any]) -> str:
    left = timedelta(seconds=round(told["left"]))
    return f"loss {told['loss']:.3f}  {told['speed']:.0f} tokens/s  {left} left"


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """Read the last whole lines of a file that is being written."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            data = file.read()
    except FileNotFoundError:
        return []
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    whole = lines[1:] if size > _TAIL else lines
    return [json.loads(line) for line in whole[-_RECENT:]]


def _is_held(lock: Path) -> bool:
    """Say whether a process holds a lock file; it is asked without making one."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
