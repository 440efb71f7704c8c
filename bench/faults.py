"""Hold tunemake's rebuilds beside those of make, doit, DVC and Snakemake: one chain, every fault, what comes of it.

    python bench/faults.py [--tools tunemake,doit] [--faults word] [--dvc PATH] [--snakemake PATH] [--make PATH]

Writes docs/correctness.md from the table when all of it ran. A tool that is not there is told as absent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import correctness_page
from chain_lab import Fault, Lab, verdict
from chain_tools import SOURCE, tools

FAULTS: dict[str, Fault] = {}
_SMALL_DISK = "size=2m"
_FILLED = 1 << 16
_DYING_SECONDS = 0.1


def fault(title: str) -> Callable[[Fault], Fault]:
    """Enter a fault into the table; its function makes it and gives the verdict."""

    def enter(made: Fault) -> Fault:
        FAULTS[title] = made
        return made

    return enter


def _killed_first(action: str) -> Fault:
    def made(lab: Lab) -> str:
        lab.killed(action)
        return verdict(lab, "bc" if action == "b" else "c")

    return made


def _killed_again(action: str) -> Fault:
    def made(lab: Lab) -> str:
        lab.built()
        lab.edit_source()
        lab.killed(action)
        return verdict(lab, "bc" if action == "b" else "c")

    return made


for _action, _name in (("b", "first"), ("c", "second")):
    fault(f"SIGKILL in the first build, in its {_name} action")(_killed_first(_action))
for _action, _name in (("b", "first"), ("c", "second")):
    fault(f"SIGKILL in a rebuild, in its {_name} action")(_killed_again(_action))


@fault("source edited, rebuild killed, source restored")
def killed_and_restored(lab: Lab) -> str:
    """Leave a b that may have to be made again, and a c that never changed."""
    lab.built()
    lab.edit_source()
    lab.killed("b")
    lab.put_source(list(SOURCE))
    return verdict(lab, "b")


@fault("b deleted, its rebuild killed")
def deleted_and_killed(lab: Lab) -> str:
    """Leave a half-made b."""
    lab.built()
    lab.target("b").unlink()
    lab.killed("b")
    return verdict(lab, "b")


def _deleted(actions: str) -> Fault:
    def made(lab: Lab) -> str:
        lab.built()
        for action in actions:
            lab.target(action).unlink()
        return verdict(lab, actions)

    return made


fault("b deleted")(_deleted("b"))
fault("c deleted")(_deleted("c"))
fault("b and c deleted")(_deleted("bc"))


def _edited_by_hand(action: str) -> Fault:
    def made(lab: Lab) -> str:
        lab.built()
        lab.edit_target(action)
        judged = verdict(lab, action, unseen="unnoticed")
        return judged if judged != "ok" or lab.keeps_edit() else "ok (the edit is lost)"

    return made


fault("b edited by hand")(_edited_by_hand("b"))
fault("c edited by hand")(_edited_by_hand("c"))


@fault("source edited without effect on b")
def no_effect(lab: Lab) -> str:
    """Add a comment: b comes out as it was, so nothing after it has to run."""
    lab.built()
    lab.put_source(["# a comment", *lab.source])
    return verdict(lab, "b", unseen="unnoticed")


@fault("source edited, built, edited back")
def restored(lab: Lab) -> str:
    """Change both targets back; they may be made anew, or kept from before."""
    lab.built()
    lab.edit_source()
    lab.built()
    lab.put_source(list(SOURCE))
    return verdict(lab, "bc", unseen="unnoticed")


@fault("source touched, content equal")
def touched(lab: Lab) -> str:
    """Change nothing."""
    lab.built()
    time.sleep(0.1)
    (lab.folder / "src").touch()
    return verdict(lab, "")


@fault("source edited, size and mtime as before")
def same_stat(lab: Lab) -> str:
    """Change it as rsync -t, tar or a coarse clock leave it."""
    lab.built()
    stat = (lab.folder / "src").stat()
    lab.edit_source(lab.source[-1][::-1])
    os.utime(lab.folder / "src", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return verdict(lab, "bc", unseen="unnoticed")


@fault("source edited while the first action runs")
def edited_meanwhile(lab: Lab) -> str:
    """Change what has been read already."""
    lab.built()
    lab.edit_source()
    process = lab.start_until("b")
    lab.edit_source("yet another line")
    lab.wait(process)
    return verdict(lab, "bc", unseen="unnoticed")


@fault("parameter changed")
def parameter(lab: Lab) -> str:
    """Change it in the tool's own way."""
    lab.built()
    lab.replace(lab.tool.parameter, mark="+")
    return verdict(lab, "bc", unseen="unnoticed")


@fault("action's own text changed")
def action_changed(lab: Lab) -> str:
    """Change the recipe; of tunemake the generator."""
    lab.built()
    lab.replace(lab.tool.action, how="lower")
    return verdict(lab, "bc", unseen="unnoticed")


@fault("module changed that the action's code imports")
def module_changed(lab: Lab) -> str:
    """Change what is declared nowhere, as modules rarely are."""
    lab.built()
    lab.replace(("words.py", '"."', '";"'), end=";")
    return verdict(lab, "bc", unseen="unnoticed")


def _ended(number: int, *, group: bool) -> Fault:
    def made(lab: Lab) -> str:
        process = lab.start_until("b")
        lab.end(process, number, group=group)
        time.sleep(_DYING_SECONDS)
        if not lab.no_process_left():
            lab.told.append("a process goes on")
        return verdict(lab, "bc")

    return made


fault("SIGTERM to the tool alone")(_ended(signal.SIGTERM, group=False))
fault("SIGINT to the group (Ctrl-C)")(_ended(signal.SIGINT, group=True))


def _damaged(damage: Callable[[Path], object]) -> Fault:
    def made(lab: Lab) -> str:
        lab.built()
        notes = [path for pattern in lab.tool.notes for path in lab.folder.glob(pattern) if path.is_file()]
        if not notes:
            return "– (keeps none)"
        for path in notes:
            damage(path)
        return verdict(lab, "")

    return made


fault("tool's database lost")(_damaged(Path.unlink))
fault("tool's database cut short")(_damaged(lambda path: os.truncate(path, path.stat().st_size // 2)))
fault("tool's database is garbage")(_damaged(lambda path: path.write_bytes(b"\0garbage" * 64)))


@fault("record beside b cut short")
def record_damaged(lab: Lab) -> str:
    """Cut what says of b what it was made of: b is to be made anew, and nothing else."""
    record = lab.target("b").with_name("artifact.json")
    lab.built()
    if not record.exists():
        return "– (no such file)"
    os.truncate(record, record.stat().st_size // 2)
    return verdict(lab, "b")


@fault("two builds at once")
def two_at_once(lab: Lab) -> str:
    """Ask both for the same; the work is to be done once, and done when they end."""
    processes = [lab.tool.start(lab.folder) for _ in range(2)]
    codes = [lab.wait(process) for process in processes]
    ran = lab.ran()
    if 0 in codes and not lab.is_right():
        return "WRONG"
    if any(codes):
        lab.told.append("one refused" if 0 in codes else "both fail")
    judged = verdict(lab, "")
    if judged.startswith("ok") and max(ran.values()) > 1:
        return "needless: actions run twice"
    return judged


@fault("disk full in the first action")
def disk_full(lab: Lab) -> str:
    """Build on a disk that has room for half of b; then there is room again."""
    lab.put_source([f"{number} " + "x" * 1000 for number in range(200)])
    filler = lab.folder / "filler"
    room = shutil.disk_usage(lab.folder).free
    filler.write_bytes(bytes(room - _FILLED))
    if lab.build() == 0:
        lab.told.append("says done")
        if not lab.is_right():
            return "WRONG"
    filler.unlink()
    return verdict(lab, "bc")


def judge(name: str, lab: Lab) -> str:
    """Run a fault over a new chain."""
    if FAULTS[name] is not disk_full:
        lab.create()
        return FAULTS[name](lab)
    lab.folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", _SMALL_DISK, "tmpfs", str(lab.folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "– (mounting needs root)"
    try:
        lab.create()
        return FAULTS[name](lab)
    finally:
        subprocess.run(["umount", "--lazy", str(lab.folder)], check=True)


def main() -> None:
    """Run what was asked for, print it as it comes, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", default="", help="names, separated by commas; all by default")
    parser.add_argument("--faults", default="", help="only those whose title holds this")
    for name in ("dvc", "snakemake", "make"):
        parser.add_argument(f"--{name}", default=name, metavar="PATH")
    chosen = parser.parse_args()
    # A shell starts what runs in the background with SIGINT ignored, and then all that it starts ignores it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = tools(chosen.dvc, chosen.snakemake, chosen.make)
    asked = [tool for tool in found if tool.name in (chosen.tools.split(",") if chosen.tools else tool.name)]
    versions = {tool.name: tool.describe() for tool in asked}
    table: dict[str, dict[str, str]] = {}
    for title in [title for title in FAULTS if chosen.faults in title]:
        table[title] = {}
        for tool in asked:
            with tempfile.TemporaryDirectory(prefix="faults-") as place:
                lab = Lab(tool, Path(place).resolve() / tool.name)
                table[title][tool.name] = judge(title, lab) if versions[tool.name] else "absent"
            print(f"{title}: {tool.name}: {table[title][tool.name]}", flush=True)
    if not chosen.tools and not chosen.faults:
        correctness_page.write(table, versions)


if __name__ == "__main__":
    main()
