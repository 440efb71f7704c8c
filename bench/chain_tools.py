"""The same chain src → b → c under each tool: its files, its command, where its targets and its notes lie."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import measure

CHAINS = Path(__file__).resolve().parent / "chains"
SOURCE = [f"line {number} of the source" for number in range(40)]


@dataclass(frozen=True)
class Words:
    """What decides the targets beside the source: the parameter, the action's text, what the action imports."""

    mark: str = "!"
    how: str = "upper"
    end: str = "."


@dataclass(frozen=True)
class Tool:
    """A build tool over the chain, as its careful user writes it.

    command: what builds. version: what tells its version. targets: b and c, as files. places: where the parameter and
    the action's text stand, as (file, text now, other text). notes: patterns of the files it keeps for itself.
    """

    name: str
    command: list[str]
    version: list[str]
    targets: tuple[str, str] = ("b", "c")
    parameter: tuple[str, str, str] = ("", "", "")
    action: tuple[str, str, str] = ("", "", "")
    notes: tuple[str, ...] = ()
    prepare: tuple[list[str], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def make_folder(self, folder: Path, source: Iterable[str] = SOURCE) -> Path:
        """Put the chain's files into a new folder."""
        for kind in ("shared", self.name):
            shutil.copytree(CHAINS / kind, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "src").write_text("".join(f"{line}\n" for line in source), "utf-8")
        (folder / "model").mkdir()
        for command in self.prepare:
            subprocess.run(command, cwd=folder, env=self.surroundings(), capture_output=True, check=True)
        return folder

    def surroundings(self) -> dict[str, str]:
        """Give the environment that its commands run in."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **self.environment}

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """Start a build in a group of its own."""
        with (folder / "told.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                self.command, cwd=folder, env=self.surroundings(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, text=True,
            )  # fmt: skip

    def ran(self, folder: Path) -> list[str]:
        """List the actions that have run so far."""
        log = folder / "ran.log"
        return log.read_text("utf-8").split() if log.exists() else []

    def content(self, folder: Path) -> list[list[str]] | None:
        """Give the lines of both targets; None where one is not there or cannot be read."""
        try:
            return [(folder / target).read_text("utf-8").splitlines() for target in self.targets]
        except (OSError, ValueError):
            return None

    def wanted(self, source: Iterable[str], words: Words) -> list[list[str]]:
        """Give the lines that both targets must have, worked out apart from any tool."""
        b = [getattr(line, words.how)() + words.mark + words.end for line in source if not line.startswith("#")]
        return [b, [line.swapcase() + words.end for line in b]]

    def describe(self) -> str | None:
        """Give its version, or None where it is absent."""
        try:
            done = subprocess.run(self.version, capture_output=True, text=True, check=True, env=self.surroundings())
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.split("\n")[0].strip().removeprefix("GNU Make ")


class Tunemake(Tool):
    """tunemake over its own stages: b is a dataset's artifact, c the data artifact's training file."""

    def ran(self, folder: Path) -> list[str]:
        """List b as its generator tells it, and c as the build's log does, since that stage is tunemake's own."""
        log = folder / "build" / "log.jsonl"
        stages = [json.loads(line)["stage"] for line in log.read_text("utf-8").splitlines()] if log.exists() else []
        return [*super().ran(folder), *("c" for stage in stages if stage == "data")]

    def content(self, folder: Path) -> list[list[str]] | None:
        """Give the answers in both targets."""
        try:
            b, c = ((folder / target).read_text("utf-8") for target in self.targets)
            samples = [[json.loads(line) for line in b.splitlines()], json.loads(c)]
        except (OSError, ValueError):
            return None
        return [[sample["messages"][1]["content"] for sample in target] for target in samples]

    def wanted(self, source: Iterable[str], words: Words) -> list[list[str]]:
        """Give what both must hold: data mixes and splits, and of one dataset and no split that is the same."""
        b = super().wanted(source, words)[0]
        return [b, b]


def tools(dvc: str, snakemake: str, make: str) -> list[Tool]:
    """Give the tools. dvc, snakemake, make: their programs, by path or as PATH finds them."""
    python = sys.executable
    ours = {"PYTHONPATH": f"{measure.ROOT / 'src'}{os.pathsep}{measure.ROOT / 'plugins'}"}
    snake_home = {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
    return [
        Tunemake(
            "tunemake", [python, "-m", "doit", "data"], [python, "-c", "import tunemake as t; print(t.__version__)"],
            ("build/default/datasets/one/samples.jsonl", "build/default/data/train.json"),
            ("project.toml", 'mark = "!"', 'mark = "+"'), ("lines.py", ".upper()", ".lower()"),
            (".doit.db*", "build/.cache/digests.json", "build/.cache/checked/*"), environment=ours,
        ),
        Tool(
            "make", [make], [make, "--version"], parameter=("params.mk", "!", "+"),
            action=("Makefile", "upper", "lower"),
        ),
        Tool(
            "doit", [python, "-m", "doit"],
            [python, "-c", "from importlib.metadata import version; print(version('doit'))"],
            parameter=("dodo.py", '"!"', '"+"'), action=("dodo.py", "upper src", "lower src"), notes=(".doit.db*",),
        ),
        Tool(
            "dvc", [dvc, "repro"], [dvc, "--version"], parameter=("params.yaml", "!", "+"),
            action=("dvc.yaml", "upper", "lower"), notes=("dvc.lock", ".dvc/tmp/**/*.db*"),
            prepare=([dvc, "init", "--no-scm"],), environment={"DVC_NO_ANALYTICS": "1"},
        ),
        Tool(
            "snakemake", [snakemake, "--cores", "1", "b", "c"], [snakemake, "--version"],
            parameter=("Snakefile", "!", "+"), action=("Snakefile", "upper", "lower"),
            notes=(".snakemake/metadata/*",), environment=snake_home,
        ),
    ]  # fmt: skip
