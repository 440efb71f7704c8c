"""Hold builds against the truth for long: random edits, damage and kills, as tests/truth_machine.py makes them.

    python bench/truth.py [--steps 10000] [--minutes 15] [--workers 2] [--seed 1]

Each worker runs the state machine with seeds of its own until steps or minutes are spent; what fails is counted by its
kind and printed with its steps. Adds to bench/results/truth-<date>.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import measure

sys.path.insert(0, str(measure.ROOT / "tests"))

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from truth_machine import CrashError, Driver, NeedlessError, Oracle, StuckError, Truth, WrongError

_KINDS = {"wrong": WrongError, "needless": NeedlessError, "stuck": StuckError, "crash": CrashError}
_LENGTH = 60
_SETTINGS = settings(
    max_examples=8, stateful_step_count=_LENGTH, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck), report_multiple_bugs=False, verbosity=Verbosity.normal,
)  # fmt: skip


def work(first: int, steps: int, minutes: float) -> Counter[str]:
    """Run the machine in this process; give what was done and what came of it."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of a name of its own is made there
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="truth-", dir=memory if memory.is_dir() else None) as place:
        driver = Driver(Path(place))
        Truth.driver, Truth.oracle = driver, Oracle(driver, Path(place))
        for number in itertools.count(first):
            if Truth.counts["steps"] >= steps or time.monotonic() > end:
                break
            run(number)
        driver.close()
    return Truth.counts


def run(number: int) -> None:
    """Run the machine with one seed."""
    machine = seed(number)(type("Truth", (Truth,), {}))
    try:
        run_state_machine_as_test(machine, settings=_SETTINGS)
    except tuple(_KINDS.values()) as error:
        kind = next(name for name, made in _KINDS.items() if isinstance(error, made))
        Truth.counts[kind] += 1
        print(
            f"seed {number}: {kind}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr, flush=True
        )


def lines(counts: Counter[str], chosen: argparse.Namespace, seconds: float) -> list[str]:
    """Give the section of the results."""
    done = ("steps", "builds", "made", "compared", "kills", "damages")
    return [
        *measure.circumstances(), f"- {chosen.workers} workers, seed {chosen.seed}; {seconds / 60:.1f} minutes", "",
        "| " + " | ".join(("steps", "builds", "stages made", "artifacts compared", "kills", "damages", *_KINDS)) + " |",
        "|" + " --- |" * (len(done) + len(_KINDS)),
        "| " + " | ".join(str(counts[name]) for name in (*done, *_KINDS)) + " |",
    ]  # fmt: skip


def main() -> None:
    """Share the work among processes; print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="be one worker, and tell the counts as JSON")
    chosen = parser.parse_args()
    if chosen.alone:
        print(json.dumps(work(chosen.seed, chosen.steps, chosen.minutes)))
        return
    started, share = time.monotonic(), chosen.steps // chosen.workers
    command = [sys.executable, __file__, "--alone", "--steps", str(share), "--minutes", str(chosen.minutes)]
    workers = [
        subprocess.Popen([*command, "--seed", str(chosen.seed + 100_000 * number)], stdout=subprocess.PIPE, text=True)
        for number in range(chosen.workers)
    ]
    counts = sum((Counter(json.loads(worker.communicate()[0].splitlines()[-1])) for worker in workers), Counter())
    measure.publish("Truth", lines(counts, chosen, time.monotonic() - started))


if __name__ == "__main__":
    main()
