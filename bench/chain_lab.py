"""One chain under one tool with one fault: builds, kills, edits, and the verdict on what the next build makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from chain_tools import SOURCE, Tool, Words

LONGEST_SECONDS = 60.0
_HALF_PAUSE = 0.2
HAND = "changed by hand\n"


class Lab:
    """A folder with the chain in it, and what its targets must be now."""

    def __init__(self, tool: Tool, folder: Path) -> None:
        self.tool, self.folder = tool, folder
        self.source, self.words = list(SOURCE), Words()
        self.told: list[str] = []  # what went wrong while the fault was made

    def create(self) -> None:
        """Make the folder."""
        self.tool.make_folder(self.folder)

    def built(self) -> None:
        """Build once, before the fault."""
        code = self.build()
        if code or not self.is_right():
            raise SystemExit(f"{self.tool.name}: no first build, exit code {code}: {self.folder / 'told.log'}")

    def build(self) -> int:
        """Build; give the exit code, or -1 where it had to be ended."""
        return self.wait(self.tool.start(self.folder))

    def wait(self, process: subprocess.Popen[str]) -> int:
        """Give a build's exit code, or -1 where it hangs."""
        try:
            return process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.told.append("hangs")
            return -1

    def ran(self) -> Counter[str]:
        """Count the actions that have run."""
        return Counter(self.tool.ran(self.folder))

    def is_right(self) -> bool:
        """Say whether both targets hold what they must."""
        return self.tool.content(self.folder) == self.tool.wanted(self.source, self.words)

    def start_until(self, action: str) -> subprocess.Popen[str]:
        """Start a build and wait for the middle of an action."""
        before, process = self.started(action), self.tool.start(self.folder)
        end = time.monotonic() + LONGEST_SECONDS
        while self.started(action) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(_HALF_PAUSE if action == "b" or self.tool.name != "tunemake" else 0)
        return process

    def started(self, action: str) -> int:
        """Count how often an action has begun; of tunemake's own stage its work folders tell."""
        if action == "c" and self.tool.name == "tunemake":
            return len([path for path in (self.folder / "build" / ".work").glob("data-*") if path.is_dir()])
        return self.ran()[action]

    def killed(self, action: str) -> None:
        """Build, and kill it with all that it started in the middle of an action, as a machine that goes down does."""
        process = self.start_until(action)
        self.end(process, signal.SIGKILL, group=True)
        time.sleep(_HALF_PAUSE)  # what watches the build in a group of its own ends too

    def end(self, process: subprocess.Popen[str], number: int, *, group: bool) -> None:
        """Send a signal to a build, to its group or to it alone, and wait for its end."""
        if process.poll() is not None:
            return  # it had nothing to do in which it could be hit
        (os.killpg if group else os.kill)(process.pid, number)
        if self.wait(process) == 0:
            self.told.append("says done")

    def edit_source(self, line: str = "another line") -> None:
        """Change the source so that both targets change."""
        self.put_source([*self.source[:-1], line])

    def put_source(self, lines: list[str]) -> None:
        """Write the source."""
        self.source = lines
        (self.folder / "src").write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def replace(self, place: tuple[str, str, str], **words: str) -> None:
        """Put another text into one of the chain's files; words: what then decides the targets."""
        file = self.folder / place[0]
        file.write_text(file.read_text("utf-8").replace(place[1], place[2]), "utf-8")
        self.words = replace(self.words, **words)

    def target(self, action: str) -> Path:
        """Give the path of a target."""
        return self.folder / self.tool.targets["bc".index(action)]

    def edit_target(self, action: str) -> None:
        """Change a target by hand."""
        self.target(action).chmod(0o644)
        self.target(action).write_text(HAND, "utf-8")

    def keeps_edit(self) -> bool:
        """Say whether the change by hand is still somewhere."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return any(path.read_bytes() == HAND.encode() for path in files)

    def no_process_left(self) -> bool:
        """Say whether all processes that work in the folder are gone."""
        return not any(_works_in(place, self.folder) for place in Path("/proc").glob("[0-9]*"))


def _works_in(place: Path, folder: Path) -> bool:
    try:
        return (place / "cwd").resolve() == folder and (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def verdict(lab: Lab, allowed: Collection[str], unseen: str = "WRONG") -> str:
    """Build after the fault and judge: ok, WRONG, unnoticed, stuck or needless.

    allowed: the actions that had to run, or may; each once. unseen: what to call it that nothing runs though something
    had to.
    """
    before = lab.ran()
    code = lab.build()
    again = code != 0
    if again and lab.build() != 0:
        return "stuck"
    ran = lab.ran() - before
    if not lab.is_right():
        return _cell(unseen if not ran else "WRONG", lab, ran, again=again)
    needless = ran - Counter(allowed)
    lab.build()
    restless = lab.ran() - before - ran
    word = f"needless: {_list(needless)}" if needless else "needless, again and again" if restless else "ok"
    return _cell(word if lab.is_right() else "WRONG", lab, ran, again=again)


def _cell(word: str, lab: Lab, ran: Counter[str], *, again: bool) -> str:
    notes = [*lab.told, *(["at the second try"] if again else [])]
    if "WRONG" in word and ran:
        notes.append(f"made {_list(ran)}")
    return f"{word} ({'; '.join(notes)})" if notes else word


def _list(ran: Counter[str]) -> str:
    return ", ".join(f"{name} {count}×" if count > 1 else name for name, count in sorted(ran.items()))


Fault = Callable[[Lab], str]
