"""Runs contenders in processes of their own, interleaved, and writes what they took as a Markdown table."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Rounds = dict[str, list[tuple[float, float]]]


def interleaved(commands: Mapping[str, list[str]], rounds: int, out: Path, log: Path) -> Rounds:
    """Run every contender once a round; give seconds with the sync and peak MiB of each run, by contender."""
    results: Rounds = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            results[name].append(run(command, out, log))
    return results


def run(command: list[str], out: Path, log: Path) -> tuple[float, float]:
    """Run one contender; give seconds with the sync, and its peak in MiB."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT / "plugins"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    with log.open("ab") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        os.sync()
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{log.read_text()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


def table(results: Rounds, floor: str) -> list[str]:
    """Give the rows of the Markdown table; floor is the contender that the others are ratios of."""
    medians = {name: statistics.median(s for s, _ in rounds) for name, rounds in results.items()}
    lines = [f"| | seconds with sync, median (all) | peak MiB | × {floor} |", "| --- | --- | --- | --- |"]
    for name, rounds in results.items():
        every = ", ".join(f"{seconds:.1f}" for seconds, _ in rounds)
        peak, ratio = max(peak for _, peak in rounds), medians[name] / medians[floor]
        lines.append(f"| {name} | {medians[name]:.2f} ({every}) | {peak:.0f} | {ratio:.2f} |")
    return lines


def circumstances() -> list[str]:
    """Give what the figures depend on: the machine and the versions."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "?")
    versions = (f"{name} {_version(name)}" for name in ("numpy", "ml-dtypes", "torch", "peft", "xtuner"))
    return [
        f"- machine: {len(os.sched_getaffinity(0))} cores, {cpu}, load {os.getloadavg()[0]:.1f}",
        f"- versions: Python {platform.python_version()}, {', '.join(versions)}",
    ]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def publish(title: str, lines: list[str]) -> None:
    """Print a section and add it to bench/results/<title>-<date>.md."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    text = "\n".join([f"# {title}, {today}", "", *lines, ""])
    print(text)
    with (ROOT / "bench" / "results" / f"{title.lower()}-{today}.md").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
