"""A project under random edits, damage and kills, whose every build is held against one in a fresh folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

import truth_project
from truth_project import LETTERS, SPECS, VARIANTS, Values

HERE = Path(__file__).parent
_LONGEST_SECONDS = 60.0
_SPARE = {"artifact.json", "log.txt"}  # of an artifact; times and what a stage printed


class WrongError(AssertionError):
    """A build that succeeded shows what a build in a fresh folder would not have made."""


class NeedlessError(AssertionError):
    """A stage was run whose artifact was there, whole."""


class StuckError(AssertionError):
    """A build failed that succeeds in a fresh folder, or did not end."""


class CrashError(AssertionError):
    """An exception that is no TunemakeError."""


class Driver:
    """The warm process that forks builds; see truth_driver.py."""

    def __init__(self, place: Path) -> None:
        self.place, self._number = place, 0
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        warm = place / "warm"
        truth_project.write_model(warm, place / "model")
        truth_project.write(warm, Values(datasets=(("one", "csv"),)).files())
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "truth_driver.py"), str(warm)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment,
        )  # fmt: skip

    def ask(self, order: dict[str, Any]) -> Any:
        """Give an order; give its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, root: Path, how: str, **more: Any) -> Build:
        """Start a build. more: pick (a stage), die_at (an event), meanwhile (files to write before a stage runs)."""
        self._number += 1
        answer = self.place / f"answer-{self._number}"
        order = {"root": str(root), "how": how, "answer": str(answer), **more}
        return Build(self, self.ask(order), answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=_LONGEST_SECONDS)


class Build:
    """A build in a fork."""

    def __init__(self, driver: Driver, number: int, answer: Path) -> None:
        self._driver, self.number, self._answer = driver, number, answer

    def kill(self, seconds: float) -> None:
        """Send SIGKILL after a time."""
        time.sleep(seconds)
        os.kill(self.number, signal.SIGKILL)

    def wait(self) -> dict[str, Any] | None:
        """Give what it told at its end; None where it was killed. Raises StuckError and CrashError."""
        end = time.monotonic() + _LONGEST_SECONDS
        while not _ended(self.number):
            if time.monotonic() > end:
                os.kill(self.number, signal.SIGKILL)
                self._driver.ask({"wait": self.number})
                raise StuckError(f"a build did not end in {_LONGEST_SECONDS} s")
            time.sleep(0.002)
        code = self._driver.ask({"wait": self.number})
        if code == -signal.SIGKILL:
            return None
        told = json.loads(self._answer.read_text())
        if "crash" in told:
            raise CrashError(told["crash"])
        if not told["ok"]:
            told["error"] += "\n" + Path(f"{self._answer}.log").read_text()
        return told


def _ended(number: int) -> bool:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


class Oracle:
    """What a project's files must come to: built from nothing in a folder of its own, once for each state of them."""

    def __init__(self, driver: Driver, place: Path) -> None:
        self._driver, self._place = driver, place
        self._known: dict[str, dict[str, tuple[str, dict[str, str]]] | None] = {}
        self._names: dict[str, str] = {}

    def of(self, values: Values) -> dict[str, tuple[str, dict[str, str]]] | None:
        """Give, by link, the artifact's name and the digests of its files; None where the project is wrong."""
        files = values.files()
        key = json.dumps(files, sort_keys=True)
        if key not in self._known:
            self._known[key] = made = self._made(files)
            if made is not None and values.variants == "none":
                self._check_names(values, made)
        return self._known[key]

    def _check_names(self, values: Values, made: dict[str, tuple[str, dict[str, str]]]) -> None:
        """See that an artifact is decided by what its content stands on, and by no more."""
        for link, decided in truth_project.decided(values, {link: digests for link, (_, digests) in made.items()}):
            name = self._names.setdefault(decided, made[link][0])
            if name != made[link][0]:
                raise NeedlessError(f"{link}: {made[link][0]} and {name}, both of {decided}")

    def _made(self, files: dict[str, str]) -> dict[str, tuple[str, dict[str, str]]] | None:
        root = Path(tempfile.mkdtemp(dir=self._place, prefix="o-")).resolve()
        truth_project.write_model(root, self._place / "model")
        truth_project.write(root, files)
        told = self._driver.start(root, "here").wait()
        assert told is not None
        found = None
        if told["ok"]:
            every = {link: shown(root, link) for links in told["stages"].values() for link in links}
            found = {link: artifact for link, artifact in every.items() if artifact is not None}
            assert found.keys() == every.keys()
        shutil.rmtree(root)
        return found


def shown(root: Path, link: str) -> tuple[str, dict[str, str]] | None:
    """Give the name of the artifact that a link shows, and the digests of its files; None where it shows none."""
    folder = (root / link).resolve()
    if not folder.is_dir():
        return None
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in _SPARE)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return folder.name, {name: _sha256(path) for name, path in names.items() if not name.startswith(".")}


def finished(folder: Path) -> bool:
    """Say whether a folder holds a record and all files as that tells of them."""
    try:
        outputs = json.loads((folder / "artifact.json").read_text())["outputs"]
        return all(_sha256(folder / name) == told["sha256"] for name, told in outputs.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


WRITING = st.sampled_from(["plain", "plain", "stat", "rename"])
LETTER = st.sampled_from("abc")
UNKNOWN = st.integers(4, 1 << 30)  # a seed that was never there, so that a build has all to do


class Truth(RuleBasedStateMachine):
    """Rules are what users, crashes and kills do; each full build is held against the oracle.

    how: the shares of ways to build, as a list. counts: of steps, builds, kills; shared by all runs of one process.
    """

    driver: Driver
    oracle: Oracle
    how = ("fork",) * 12 + ("doit",)
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.driver.place, prefix="p-")).resolve()
        self.history = [Values()]
        truth_project.write_model(self.root, self.driver.place / "model")
        truth_project.write(self.root, self.values.files())

    @property
    def values(self) -> Values:
        """What the project declares now."""
        return self.history[-1]

    @property
    def build_folder(self) -> Path:
        return self.root / "build"

    def teardown(self) -> None:
        self.full_build("fork")
        shutil.rmtree(self.root, ignore_errors=True)

    # --- what the user edits

    def edit(self, values: Values, how: str) -> None:
        self.counts["steps"] += 1
        self.history.append(values)
        truth_project.write(self.root, values.files(), how)

    @rule(seed=st.integers(1, 3), how=WRITING)
    def edit_seed(self, seed: int, how: str) -> None:
        self.edit(replace(self.values, seed=seed), how)

    @rule(key=st.sampled_from(["held_out", "format", "name", "lr"]), second=st.integers(0, 1), how=WRITING)
    def edit_value(self, key: str, second: int, how: str) -> None:
        choice = {"held_out": ("0.2", "0.4"), "format": ("json", "jsonl"), "name": ("truth", "other"),
                  "lr": ("1e-3", "2e-3")}[key]  # fmt: skip
        self.edit(replace(self.values, **{key: choice[second]}), how)

    @rule(variants=st.sampled_from(list(VARIANTS)))
    def edit_variants(self, variants: str) -> None:
        self.edit(replace(self.values, variants=variants), "plain")

    @rule(name=st.sampled_from(["one", "two", "six"]), spec=st.sampled_from([None, *SPECS]))
    def edit_datasets(self, name: str, spec: str | None) -> None:
        self.edit(self.values.with_dataset(name, spec), "plain")

    @rule(name=st.sampled_from(LETTERS), letter=LETTER, how=WRITING)
    def edit_file(self, name: str, letter: str, how: str) -> None:
        self.edit(self.values.with_letter(name, letter), how)

    @rule(name=st.sampled_from(LETTERS), letter=LETTER)
    def edit_file_again(self, name: str, letter: str) -> None:
        self.edit(self.values.with_letter(name, letter), "stat")

    @rule(back=st.integers(1, 6), how=WRITING)
    def go_back(self, back: int, how: str) -> None:
        self.edit(self.history[-min(back, len(self.history))], how)

    @rule(index=st.integers(0, 20))
    def touch(self, index: int) -> None:
        self.counts["steps"] += 1
        names = sorted(self.values.files())
        (self.root / names[index % len(names)]).touch()

    # --- what is damaged

    def _files(self, *folders: Path) -> list[Path]:
        return sorted(path for folder in folders if folder.exists() for path in folder.rglob("*") if path.is_file())

    def _chosen(self, index: int, found: list[Path]) -> Path | None:
        self.counts["steps"] += 1
        return found[index % len(found)] if found else None

    def _spoil(self, path: Path, how: str) -> None:
        self.counts["damages"] += 1
        before = path.stat()
        path.chmod(0o644)
        data = path.read_bytes()
        if how == "delete":
            path.unlink()
        elif how == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "null":
            path.write_bytes(b"null")
        elif how == "object":
            path.write_bytes(b"{}")
        elif how == "keyless":
            told = list(json.loads(data or b"{}").items()) if data.startswith(b"{") else []
            path.write_text(json.dumps(dict(told[: len(told) // 2])))
        else:
            path.write_bytes(bytes([*data[:-1], data[-1] ^ 1]) if data else b"x")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(index=st.integers(0, 99), how=st.sampled_from(["delete", "cut", "empty", "flip"]))
    def damage_output(self, index: int, how: str) -> None:
        entries = self.build_folder / ".store"
        found = [path for path in self._files(entries) if path.name != "artifact.json" and not path.is_symlink()]
        if path := self._chosen(index, found):
            self._spoil(path, how)

    @rule(index=st.integers(0, 99), how=st.sampled_from(["flip", "flip", "delete", "cut"]))
    def damage_what_is_shown(self, index: int, how: str) -> None:
        links = [self.root / link for link in sorted(self.oracle.of(self.values) or ())]
        every = [path for path in self._files(*(link.resolve() for link in links)) if not path.is_symlink()]
        if path := self._chosen(index, [path for path in every if path.name != "artifact.json"]):
            self._spoil(path, how)
        self.full_build("fork")

    @rule(index=st.integers(0, 99), how=st.sampled_from(["delete", "cut", "empty", "null", "keyless"]))
    def damage_record(self, index: int, how: str) -> None:
        entries = self.build_folder / ".store"
        if path := self._chosen(index, [path for path in self._files(entries) if path.name == "artifact.json"]):
            self._spoil(path, how)

    @rule(index=st.integers(0, 99), how=st.sampled_from(["delete", "cut", "empty", "null", "object"]))
    def damage_notes(self, index: int, how: str) -> None:
        notes = [*self._files(self.build_folder / ".cache"), *self.root.glob(".doit.db*")]
        if path := self._chosen(index, notes):
            self._spoil(path, how)

    @rule(index=st.integers(0, 99))
    def delete_link(self, index: int) -> None:
        links = sorted(
            path for path in self.build_folder.rglob("*") if path.is_symlink() and ".store" not in path.parts
        )
        if path := self._chosen(index, [path for path in links if ".work" not in path.parts]):
            path.unlink()

    @rule(index=st.integers(0, 99))
    def delete_entry(self, index: int) -> None:
        if path := self._chosen(index, sorted((self.build_folder / ".store").glob("*"))):
            self.counts["damages"] += 1
            shutil.rmtree(path)

    @rule(name=st.sampled_from([".work", ".cache", ".store", ".forgotten"]))
    def delete_folder(self, name: str) -> None:
        self.counts["steps"] += 1
        shutil.rmtree(self.build_folder / name, ignore_errors=True)

    @rule(index=st.integers(0, 99))
    def forget(self, index: int) -> None:
        expected = self.oracle.of(self.values)
        if link := self._chosen(index, [Path(link) for link in sorted(expected or ())]):
            mark = self.build_folder / ".forgotten" / "-".join(link.parts[1:])
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    # --- builds

    @rule(index=st.integers(0, len(how) - 1))
    def build_all(self, index: int) -> None:
        self.counts["steps"] += 1
        self.full_build(self.how[index])

    @rule(index=st.integers(0, len(how) - 1))
    def build_all_twice(self, index: int) -> None:
        self.counts["steps"] += 1
        self.full_build("fork")
        self.full_build(self.how[index])

    @rule(pick=st.integers(0, 20))
    def build_one(self, pick: int) -> None:
        self.counts["steps"] += 1
        self.built([("fork", pick)])

    @rule(thousandth=st.integers(0, 250), seed=UNKNOWN)
    def kill_at_a_time(self, thousandth: int, seed: int) -> None:
        self.edit(replace(self.values, seed=seed), "plain")
        build = self.driver.start(self.root, "fork")
        build.kill(thousandth / 1000)
        self.counts["kills" if build.wait() is None else "builds"] += 1

    @rule(number=st.integers(0, 120), seed=UNKNOWN)
    def kill_at_an_event(self, number: int, seed: int) -> None:
        self.edit(replace(self.values, seed=seed), "plain")
        self._killed(number)

    @rule(number=st.integers(0, 120))
    def kill_at_an_event_again(self, number: int) -> None:
        self.counts["steps"] += 1
        self._killed(number)

    def _killed(self, number: int) -> None:
        told = self.driver.start(self.root, "fork", die_at=number).wait()
        self.counts["kills" if told is None else "builds"] += 1

    @rule(number=st.integers(0, 12), seed=UNKNOWN)
    def kill_a_stage(self, number: int, seed: int) -> None:
        self.edit(replace(self.values, seed=seed), "plain")
        told = self.driver.start(self.root, "fork", stage_dies_at=number).wait()
        assert told is not None
        killed = not told["ok"] and "was killed" in told["error"]
        self.counts["kills" if killed else "builds"] += 1

    @rule(name=st.sampled_from(["lines", "qa"]), how=WRITING)
    def break_a_file_and_mend_it(self, name: str, how: str) -> None:
        good = self.values
        self.edit(good.with_letter(name, "z"), how)
        self.full_build("fork")
        self.edit(good, how)

    @rule()
    def build_twice_at_once(self) -> None:
        self.counts["steps"] += 1
        self.built([("fork", None)] * 2)

    @rule(name=st.sampled_from(LETTERS), how=WRITING, thousandth=st.integers(0, 200), seed=UNKNOWN)
    def edit_while_it_builds(self, name: str, how: str, thousandth: int, seed: int) -> None:
        self.edit(replace(self.values, seed=seed), "plain")
        letter = "b" if self.values.letters[name] == "a" else "a"
        first = self.driver.start(self.root, "fork")
        time.sleep(thousandth / 1000)
        self.edit(self.values.with_letter(name, letter), how)
        second = self.driver.start(self.root, "fork")
        first.wait()
        second.wait()
        self.counts["builds"] += 2

    # --- what must hold

    def full_build(self, how: str) -> None:
        """Build all; what is shown must be what a build in a fresh folder makes."""
        if not self.built([(how, None)]):
            return
        expected = self.oracle.of(self.values)
        assert expected is not None, "a project that is wrong was built"
        for link, (name, digests) in expected.items():
            self.counts["compared"] += 1
            found = shown(self.root, link)
            if found is None or found[1] != digests:
                raise WrongError(f"{link} shows {found}, not {name} {digests}")
            if found[0] != name:
                raise NeedlessError(f"{link}: {found[0]}, but in a fresh folder {name}")
            if link in self.marks():
                raise NeedlessError(f"{link} is still forgotten")

    def built(self, wanted: list[tuple[str, int | None]]) -> bool:
        """Build once or several times at once, all or one stage each; say whether the project can be built."""
        whole, marks, before = self.whole(), self.marks(), len(self.log())
        builds = [self.driver.start(self.root, how, pick=pick) for how, pick in wanted]
        told = [build.wait() for build in builds]
        self.counts["builds"] += len(builds)
        expected = self.oracle.of(self.values)
        for one in told:
            if one is None or (expected is not None and not one["ok"]):
                raise StuckError(f"{one}")
        lines = self.log()[before:]
        self.counts["made"] += len(lines)
        links = {name: set(links) for one in told if one and one["ok"] for name, links in one["stages"].items()}
        for number, line in enumerate(lines):
            again = line["artifact"] in {other["artifact"] for other in lines[:number]}
            if (line["artifact"] in whole or again) and not marks & links.get(line["stage"], marks):
                raise NeedlessError(f"{line} though it was there; forgotten: {marks}")
        return all(one is not None and one["ok"] for one in told)

    def whole(self) -> set[str]:
        """Name the artifacts that are there, whole, in the store or finished beside it."""
        places = [self.build_folder / ".store", self.build_folder / ".work"]
        return {folder.name for place in places if place.exists() for folder in place.iterdir() if finished(folder)}

    def marks(self) -> set[str]:
        """Name the links that are forgotten."""
        found = (self.build_folder / ".forgotten").glob("*")
        return {f"build/{path.name.replace('-', '/', 2 if '-datasets-' in path.name else 1)}" for path in found}

    def log(self) -> list[dict[str, str]]:
        """Give the lines of the log."""
        log = self.build_folder / "log.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
