"""Time a build that has nothing to do: tunemake, plain doit, DVC and Snakemake at as many tasks, interleaved.

    python bench/noop.py PROJECT [--tasks 1000,10000] [--rounds 9] [--gib 2] [--dvc PATH] [--snakemake PATH]

PROJECT: a project of tunemake's, built to its end; its no-op is compared with chains of as many tasks. For --tasks,
projects of that many datasets are made and built within one process, and plain doit gets tasks of the same shape: each
with its script and parameters, and one that takes them all. --gib: how large a file is touched. Adds to
bench/results/noop-<date>.md: medians of seconds and of processor seconds, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import in_process
import measure
from chain_tools import Tool, tools

DOIT_CHAIN = """
def task_step():
    for number in range({count}):
        yield {{"name": str(number), "actions": [f"cat f{{number}} > f{{number + 1}}"], "file_dep": [f"f{{number}}"],
               "targets": [f"f{{number + 1}}"]}}
"""
DOIT_MANY = """
from doit.tools import config_changed
def task_dataset():
    for number in range({count}):
        yield {{"name": str(number), "actions": [f"echo {{number}} > d{{number}}"], "file_dep": ["f0"],
               "uptodate": [config_changed({{"samples": 1, "name": f"n{{number}}"}})], "targets": [f"d{{number}}"]}}
def task_data():
    return {{"actions": ["cat d* > data"], "file_dep": [f"d{{number}}" for number in range({count})],
            "targets": ["data"]}}
"""
SNAKE = """rule r{number}:
    input: "f{number}"
    output: "f{next}"
    shell: "cat {{input}} > {{output}}"
"""
DVC = "  s{number}:\n    cmd: cat f{number} > f{next}\n    deps: [f{number}]\n    outs: [f{next}]\n"
PROJECT = """[project]
name = "many"
[model]
source = "model"
prompt_template = "chatml"
[train]
steps = 1
"""
DATASET = """[datasets.d{number}]
generator = "self_cognition"
parameters = {{ name = "n{number}", author = "a", samples = 1, languages = ["en"] }}
"""
BIG = 'plugins = ["big.py"]\n' + PROJECT + '[datasets.one]\ngenerator = "big"\n'
BIG_GENERATOR = """
from pathlib import Path

class Big:
    summary = "one sample of a large file, of which it reads little"
    version = "1"
    parameters = {"type": "object"}

    def inputs(self, parameters):
        return [Path("big.bin")]

    def samples(self, parameters, context):
        with (context.root / "big.bin").open("rb") as file:
            answer = {"role": "assistant", "content": file.read(8).hex()}
        yield {"messages": [{"role": "user", "content": "q"}, answer]}
"""
DODO = "from tunemake.tasks import DOIT_CONFIG, task_tunemake\n"
DOIT_BIG = """
def task_one():
    return {"actions": ["wc -c big.bin > out"], "file_dep": ["big.bin"], "targets": ["out"]}
"""


@dataclass(frozen=True)
class Contender:
    """A command with nothing to do, in its folder."""

    command: list[str]
    folder: Path
    environment: Mapping[str, str]

    def run(self) -> tuple[float, float]:
        """Run it; give seconds and processor seconds."""
        start = time.perf_counter()
        process = subprocess.Popen(
            self.command, cwd=self.folder, env=dict(self.environment), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        told = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{self.command} in {self.folder} failed: {told.decode()[-2000:]}")
        return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def chain(tool: Tool, place: Path, count: int) -> Contender:
    """Make and build a chain of a tool's, of so many tasks."""
    folder = place / f"{tool.name}-{count}"
    folder.mkdir()
    (folder / "f0").write_text("one\n", "utf-8")
    steps = [{"number": number, "next": number + 1} for number in range(count)]
    if tool.name == "doit":
        (folder / "dodo.py").write_text(DOIT_CHAIN.format(count=count), "utf-8")
    elif tool.name == "snakemake":
        rules = "".join(SNAKE.format(**step) for step in reversed(steps))
        (folder / "Snakefile").write_text(rules, "utf-8")
    else:
        (folder / "dvc.yaml").write_text("stages:\n" + "".join(DVC.format(**step) for step in steps), "utf-8")
    for command in [*tool.prepare, tool.command]:
        subprocess.run(_plain(command), cwd=folder, env=tool.surroundings(), check=True, capture_output=True)
    return Contender(_plain(tool.command), folder, tool.surroundings())


def _plain(command: list[str]) -> list[str]:
    """Leave out the targets of the faults' chain: here the first rule is what is asked for."""
    return [word for word in command if word not in {"b", "c"}]


def many(found: Mapping[str, Tool], place: Path, count: int) -> dict[str, Contender]:
    """Make and build a project of so many datasets, and the same for plain doit."""
    ours, plain = place / f"many-{count}", place / f"doit-many-{count}"
    for folder in (ours, plain):
        folder.mkdir()
    (ours / "model").mkdir()
    (ours / "dodo.py").write_text(DODO, "utf-8")
    datasets = "".join(DATASET.format(number=number) for number in range(count))
    (ours / "project.toml").write_text(PROJECT + datasets, "utf-8")
    in_process.build(ours, [*(f"dataset:d{number}" for number in range(count)), "data"])
    (plain / "f0").write_text("one\n", "utf-8")
    (plain / "dodo.py").write_text(DOIT_MANY.format(count=count), "utf-8")
    subprocess.run(found["doit"].command, cwd=plain, env=found["doit"].surroundings(), check=True, capture_output=True)
    return {
        "plain doit": Contender(found["doit"].command, plain, found["doit"].surroundings()),
        "tunemake": Contender(found["tunemake"].command, ours, found["tunemake"].surroundings()),
    }


def compared(title: str, contenders: Mapping[str, Contender], rounds: int) -> list[str]:
    """Run all of them once a round, after two rounds that do not count; give the table."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(-2, rounds):
        for name, contender in contenders.items():
            seconds = contender.run()
            if number >= 0:
                took[name].append(seconds)
    medians = {name: [statistics.median(column) for column in zip(*all_, strict=True)] for name, all_ in took.items()}
    ours = medians["tunemake"]
    lines = [
        f"## {title}",
        "",
        "| | s, median (least) | processor s, median (least) | tunemake takes × of it, s | … processor s |",
    ]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, (wall, cpu) in medians.items():
        least = [min(column) for column in zip(*took[name], strict=True)]
        lines.append(
            f"| {name} | {wall:.3f} ({least[0]:.3f}) | {cpu:.3f} ({least[1]:.3f}) "
            f"| {ours[0] / wall:.2f} | {ours[1] / cpu:.2f} |"
        )
    return [*lines, ""]


def touched(found: Mapping[str, Tool], place: Path, gib: float) -> list[str]:
    """Touch a large file that a stage reads: how long the next build takes, and the one after it."""
    folder = place / "big"
    folder.mkdir()
    (folder / "model").mkdir()
    for name, text in (("dodo.py", DODO), ("project.toml", BIG), ("big.py", BIG_GENERATOR)):
        (folder / name).write_text(text, "utf-8")
    big, block = folder / "big.bin", os.urandom(1 << 20)
    with big.open("wb") as file:
        for _ in range(int(gib * 1024)):
            file.write(block)
    return _touch_rounds(found, folder, big, gib)


def _touch_rounds(found: Mapping[str, Tool], folder: Path, big: Path, gib: float) -> list[str]:
    environment = found["tunemake"].surroundings()
    subprocess.run([sys.executable, "-m", "doit", "dataset"], cwd=folder, env=environment, check=True)
    plain = folder.parent / "big-doit"
    plain.mkdir()
    os.link(big, plain / "big.bin")
    (plain / "dodo.py").write_text(DOIT_BIG, "utf-8")
    subprocess.run(found["doit"].command, cwd=plain, env=environment, check=True, capture_output=True)
    contenders = {
        "plain doit (MD5)": Contender(found["doit"].command, plain, environment),
        "tunemake (SHA-256)": Contender([sys.executable, "-m", "doit", "dataset"], folder, environment),
    }
    lines = [f"## A file of {gib:g} GiB touched, its content the same", "", "| | first build, s | second | third |"]
    lines.append("| --- | --- | --- | --- |")
    for contender in contenders.values():
        contender.run()
    time.sleep(0.2)
    big.touch()
    time.sleep(0.2)
    for name, contender in contenders.items():
        took = [contender.run()[0] for _ in range(3)]
        lines.append(f"| {name} | " + " | ".join(f"{seconds:.2f}" for seconds in took) + " |")
    return [*lines, ""]


def main() -> None:
    """Measure what was asked for; print and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", nargs="?", type=Path)
    parser.add_argument("--tasks", default="", help="numbers, separated by commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gib", type=float, default=0)
    parser.add_argument("--dvc", default="dvc")
    parser.add_argument("--snakemake", default="snakemake")
    chosen = parser.parse_args()
    found = {tool.name: tool for tool in tools(chosen.dvc, chosen.snakemake, "make")}
    found["tunemake"].command.pop()  # all tasks rather than those of the faults' chain
    lines = [*measure.circumstances(), f"- {chosen.rounds} rounds, interleaved", ""]
    with tempfile.TemporaryDirectory(prefix="noop-") as name:
        place = Path(name).resolve()
        if chosen.project is not None:
            lines += _project(found, place, chosen.project.resolve(), chosen.rounds)
        for count in map(int, filter(None, chosen.tasks.split(","))):
            found["tunemake"].command[3:] = ["data"]
            lines += compared(f"{count + 1:,} tasks", many(found, place, count), chosen.rounds)
            shutil.rmtree(place / f"many-{count}")
        if chosen.gib:
            lines += touched(found, place, chosen.gib)
    measure.publish("Noop", lines)


def _project(found: Mapping[str, Tool], place: Path, project: Path, rounds: int) -> list[str]:
    ours = found["tunemake"]
    listed = subprocess.run(
        [*ours.command, "list", "--all", "--quiet"], cwd=project, env=ours.surroundings(), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    count = len(listed.stdout.splitlines())
    contenders = {f"plain {name}" if name == "doit" else name: chain(found[name], place, count)
                  for name in ("doit", "dvc", "snakemake") if found[name].describe()}  # fmt: skip
    contenders["tunemake"] = Contender(ours.command, project, ours.surroundings())
    return compared(f"A whole project, {count} tasks", contenders, rounds)


if __name__ == "__main__":
    main()
