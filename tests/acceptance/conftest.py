"""A project in a temporary folder, driven as a user drives it: by files and commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

import tiny

# A tiny model gains nothing from more threads, and loses much where they wait for each other on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

BIN = Path(sys.executable).parent
# Apart from the environment of all tests: where it is installed, every training and most of what loads a model
# imports it, for seconds.
DEEPSPEED = ["deepspeed==0.16.2", "hjson==3.1.0", "msgpack==1.2.4", "ninja==1.13.2", "py-cpuinfo==9.0.0"]
DODO = "from tunemake.tasks import DOIT_CONFIG, task_tunemake\n"

PROJECT = """
[project]
name = "tiny"
seed = 7

[model]
source = "models/tiny"
prompt_template = "chatml"

[datasets.identity]
generator = "self_cognition"
parameters = { name = "Xiaomu", author = "a tester", samples = 24, languages = ["en"] }

[data]
held_out = 0.1
max_length = 200

[train]
steps = 4
batch_size = 2
lr = 1e-3
warmup = 0
lora = { r = 2, alpha = 4 }
checkpoints = { every = 2, keep = 2 }

[evaluate]
select = "last"
max_new_tokens = 4

[[evaluate.probe]]
name = "identity"
kind = "contains"
prompts = ["hello, and your name is?"]
parameters = { words = ["Xiaomu"] }

[[evaluate.probe]]
name = "leak"
kind = "contains"
prompts = ["count to three for me"]
parameters = { words = ["Xiaomu"] }
at_most = 1
"""


@dataclass
class Run:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def ran(self) -> list[str]:
        """Names of the tasks that ran."""
        lines = [line for line in self.out.splitlines() if line.startswith(".  ")]
        return [line[3:].split(": ")[0] for line in lines]

    def why(self, task: str) -> str:
        """The reason told for a task."""
        return next(line for line in self.out.splitlines() if line.startswith(f".  {task}: ")).partition(": ")[2]

    def told(self) -> str:
        return self.out + self.err


class TinyProject:
    """A project folder. environment: what the commands' says beside."""

    environment: Mapping[str, str] = {}

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("dodo.py", DODO)
        self.write("project.toml", PROJECT)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
        return path

    def edit(self, old: str, new: str, name: str = "project.toml") -> None:
        text = (self.root / name).read_text("utf-8")
        assert old in text
        self.write(name, text.replace(old, new))

    def command(self, *arguments: str) -> list[str]:
        """Give a command, with the program of this environment where it has it."""
        own = BIN / arguments[0]
        return [str(own) if own.exists() else arguments[0], *arguments[1:]]

    def run(self, *arguments: str, **environment: str) -> Run:
        done = subprocess.run(
            self.command(*arguments), cwd=self.root, capture_output=True, text=True, check=False,
            env={**os.environ, **self.environment, **environment}, timeout=600, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Run(done.returncode, done.stdout, done.stderr)

    def doit(self, *arguments: str, **environment: str) -> Run:
        return self.run("doit", *arguments, **environment)

    def built(self, *arguments: str) -> Run:
        done = self.doit(*arguments)
        assert done.code == 0, done.told()
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env={**os.environ, **self.environment},
        )  # fmt: skip

    def record(self, link: str) -> dict:
        return json.loads((self.root / "build" / link / "artifact.json").read_text())

    def work(self, stage: str) -> list[Path]:
        return [path for path in (self.root / "build" / ".work").glob(f"{stage}-*") if path.is_dir()]


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Wait until something holds; the bound only ends a test that would hang."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def processes_of(folder: Path) -> list[int]:
    """List the processes whose command line names a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes()
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder).encode() in line and state != "Z" and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> int:
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.write_llama(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A project built once to the end; tests work on copies."""
    project = TinyProject(tmp_path_factory.mktemp("trained") / "p")
    shutil.copytree(tiny_llama, project.root / "models" / "tiny")
    project.built()
    return project.root


@pytest.fixture
def project(tmp_path: Path, tiny_llama: Path) -> TinyProject:
    """A project that has built nothing yet."""
    made = TinyProject(tmp_path / "p")
    shutil.copytree(tiny_llama, made.root / "models" / "tiny")
    return made


@pytest.fixture
def built(tmp_path: Path, trained: Path) -> TinyProject:
    """A project built to the end, to be changed at will: a copy with all links and times."""
    subprocess.run(["cp", "-a", str(trained), str(tmp_path / "p")], check=True)
    made = TinyProject.__new__(TinyProject)
    made.root = tmp_path / "p"
    return made


@pytest.fixture(scope="session")
def deepspeed(request: pytest.FixtureRequest) -> Path:
    """A folder that holds DeepSpeed: where it is installed, or one that is made once and kept between runs."""
    if (installed := find_spec("deepspeed")) is not None and installed.origin is not None:
        return Path(installed.origin).parent.parent
    kept = Path(request.config.cache.mkdir("tunemake-deepspeed"))
    with FileLock(kept / "lock"):
        if not (kept / "whole").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(kept / "site")]
            subprocess.run([*pip, *DEEPSPEED], check=True, env={**os.environ, "DS_BUILD_OPS": "0"})
            (kept / "whole").touch()
    return kept / "site"
