"""Kill builds at random times, many times over, and see that the next one always ends right.

    python bench/kills.py [--kills 500] [--minutes 15] [--seed 1] [--generator lines]

A project of a tiny model, a dataset of its own and the stages that take seconds (base, dataset, data, config). Each
round changes values, starts `doit`, sends SIGKILL at a random moment to the build, to its group, to it and the stage
that it runs, or to the stage alone; then the next `doit` must end with the files that a clean build in another folder
makes, within a bound of time, and nothing that was ever finished may be made twice. Adds to
bench/results/kills-<date>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import in_process
import measure
from chain_tools import tools

STAGES = ["dataset:one", "base", "config", "data"]
FILES = ["datasets/one/samples.jsonl", "data/train.json", "data/held_out.json", "config/train.py", "config/decides.py"]
LONGEST_SECONDS = 60.0
_IDLE = 0.5  # share of rounds that end with a build that has nothing to do
WAYS = ("build", "group", "build and stage", "stage")


class Victim:
    """The project that is killed, and its twin for clean builds."""

    def __init__(self, place: Path, chance: random.Random, generator: str) -> None:
        self.tool, self.chance = tools("", "", "")[0], chance
        self.root, self.clean = place / "killed", place / "clean"
        self.tool.make_folder(self.root)
        sys.path.insert(0, str(measure.ROOT / "tests"))
        import tiny

        shutil.rmtree(self.root / "model")
        tiny.write_llama(self.root / "model")
        project = self.root / "project.toml"
        text = project.read_text("utf-8").replace("steps = 1", "steps = 1\nlr = 1")
        if generator == "csv_qa":  # with one that ships, a build with nothing to do takes no more than a glance
            text = text.replace('"lines"', '"csv_qa"').replace('plugins = ["lines.py"]\n', "")
            text = text.replace('file = "src", mark = "!"', 'files = ["src.csv"], system = "!"')
        project.write_text(text, "utf-8")
        shutil.copytree(self.root, self.clean)
        self.text = project.read_text("utf-8")
        self.typical = 3.0

    def edit(self, number: int) -> None:
        """Change some of the values, to ones that were never there."""
        lines = [f"round {self.chance.choice([0, number, number])}, line {index}" for index in range(30)]
        mark, lr = self.chance.choice(["!", f"!{number}"]), self.chance.choice(["1", f"{number}e-9"])
        seed, held = self.chance.choice([42, number]), self.chance.choice(["0", "0.1"])
        text = self.text.replace('= "!"', f'= "{mark}"').replace("lr = 1\n", f"lr = {lr}\n")
        text = text.replace("held_out = 0\n", f"held_out = {held}\n").replace('"chain"\n', f'"chain"\nseed = {seed}\n')
        for root in (self.root, self.clean):
            (root / "project.toml").write_text(text, "utf-8")
            (root / "src").write_text("".join(f"{line}\n" for line in lines), "utf-8")
            rows = "".join(f"{line.replace(',', '')},an answer\n" for line in lines)
            (root / "src.csv").write_text(f"question,answer\n{rows}", "utf-8")

    def start(self) -> subprocess.Popen[str]:
        """Start a build."""
        with (self.root.parent / "told.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "doit", "config", "data"], cwd=self.root, env=self.tool.surroundings(),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, text=True,
            )  # fmt: skip

    def kill(self) -> str:
        """Build, and kill at a random moment; say what was killed."""
        process, way = self.start(), self.chance.choice(WAYS)
        time.sleep(self.chance.uniform(0, 1.1 * self.typical))
        stages = _children(process.pid)
        if process.poll() is not None:
            return "nothing: the build had ended"
        for number in stages if "stage" in way else []:
            _signal(number)
        if way == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif "build" in way:
            process.kill()
        process.wait(LONGEST_SECONDS)
        return way if stages or way != "stage" else "nothing: no stage ran"

    def next_build(self) -> str:
        """Build and judge: right, wrong, stuck or lost."""
        started, process = time.monotonic(), self.start()
        try:
            code = process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "stuck"
        self.typical = 0.8 * self.typical + 0.2 * (time.monotonic() - started)
        if code:
            return "stuck"
        shutil.rmtree(self.clean / "build", ignore_errors=True)
        in_process.build(self.clean, STAGES)
        if any(_content(self.root, name) != _content(self.clean, name) for name in FILES):
            return "wrong"
        if self.chance.random() < _IDLE:
            self.start().wait(LONGEST_SECONDS)  # notes what the next glance takes for granted
        return "lost" if self.made_twice() else "right"

    def made_twice(self) -> list[str]:
        """Name the artifacts that were finished and yet made again."""
        log = (self.root / "build" / "log.jsonl").read_text("utf-8").splitlines()
        return [name for name, count in Counter(json.loads(line)["artifact"] for line in log).items() if count > 1]


def _content(root: Path, name: str) -> bytes | None:
    path = root / "build" / "default" / name
    return path.read_bytes() if path.exists() else None


def _children(process: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _signal(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    """Kill as often as asked for, or as the minutes allow; print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generator", choices=("lines", "csv_qa"), default="lines")
    chosen = parser.parse_args()
    ends, ways = Counter[str](), Counter[str]()
    end = time.monotonic() + 60 * chosen.minutes
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        victim, number = Victim(Path(place).resolve(), random.Random(chosen.seed), chosen.generator), 0
        while sum(count for way, count in ways.items() if way in WAYS) < chosen.kills and time.monotonic() < end:
            number += 1
            victim.edit(number)
            ways[victim.kill()] += 1
            ended = victim.next_build()
            ends[ended] += 1
            if ended != "right":
                shutil.copytree(place, f"{place}-round-{number}-{ended}", symlinks=True)
            print(number, dict(ways), dict(ends), flush=True)
    kills = sum(ways[way] for way in WAYS)
    lines = [
        *measure.circumstances(),
        f"- generator {chosen.generator}, seed {chosen.seed}; {number} rounds, {number - kills} without a kill",
        "- killed: " + ", ".join(f"{way} {ways[way]}" for way in WAYS), "",
        "| kills | next build right | wrong | stuck | finished work lost |", "| --- | --- | --- | --- | --- |",
        f"| {kills} | {ends['right']} of {number} | {ends['wrong']} | {ends['stuck']} | {ends['lost']} |",
    ]  # fmt: skip
    measure.publish("Kills", lines)


if __name__ == "__main__":
    main()
