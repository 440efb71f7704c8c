"""Removes from a store what nobody needs any more, and what builds have left behind; never what one holds."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tunemake import cluster
from tunemake.artifacts import read_record
from tunemake.faults import StageError
from tunemake.holdings import Held, holdings, links, size_of
from tunemake.store import Store, locked

# What a name of a file or folder of ours begins with: the artifact that it belongs to.
_ARTIFACT = re.compile(r"\.?(?P<artifact>[a-z_]+-[0-9a-f]{16})(?:\..+)?")
_LOCKS = (".lock", ".use")
_DAY = 86_400.0


@dataclass(frozen=True)
class Rules:
    """What may go.

    older_than: seconds; what is younger stays, 0 for nothing. keep_size: bytes that the artifacts may take; none goes
    once they fit, None for no such limit. work: whether trainings that were killed and could be gone on with go too.
    dry_run: tell only.
    """

    older_than: float = 0.0
    keep_size: int | None = None
    work: bool = False
    dry_run: bool = False


@dataclass
class Swept:
    """What was removed, each with its bytes, or would be; and what stays though nobody needs it, with the reason."""

    removed: list[tuple[str, int]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def sweep(store: Store, rules: Rules) -> Swept:
    """Remove artifacts that nothing shown needs, the oldest first, and leftovers."""
    swept = Swept()
    _artifacts(store, rules, swept)
    _work_folders(store, rules, swept)
    _edited(store, rules, swept)
    _marks(store, rules, swept)
    _lock_files(store, rules)
    return swept


def _artifacts(store: Store, rules: Rules, swept: Swept) -> None:
    held = holdings(store)
    total = sum(entry.size for entry in held)
    for entry in held:
        if entry.needed or entry.age < rules.older_than:
            continue
        if rules.keep_size is not None and total <= rules.keep_size:
            break
        if not entry.readable:
            swept.kept.append(f"{entry.path.name}: no record that this version understands")
        elif _removed(store, entry.path, rules, swept, partial(_is_shown, store, entry)):
            total -= entry.size


def _is_shown(store: Store, entry: Held) -> bool:
    """Look once more, now that no build can be about to show it."""
    return entry.path in links(store)


def _work_folders(store: Store, rules: Rules, swept: Swept) -> None:
    found = [*_inside(store.works), *(path for path in _inside(store.entries) if path.name.startswith("."))]
    for path in found:
        if not _ARTIFACT.fullmatch(path.name) or path.suffix in _LOCKS:
            continue
        worth = _job(path) or (None if rules.work or "." in path.name else _worth(path))
        if worth is None:
            _removed(store, path, rules, swept)
        else:
            swept.kept.append(f"{path.name}: {worth}")


def _job(work: Path) -> str | None:
    """Say that a job of Slurm's waits or runs that works in a folder: until it runs, it holds no lock."""
    try:
        number = cluster.live(work)
    except StageError as error:
        return f"whether its job runs, nobody can tell: {error}"
    return None if number is None else f"job {number} of Slurm works there"


def _worth(work: Path) -> str | None:
    """Say what the next build would make of a work folder, if anything."""
    if read_record(work) is not None:
        return "finished, but not yet put in its place; --work removes it"
    checkpoints = len(list(work.glob("iter_*")))
    return f"{checkpoints} checkpoints to go on from; --work removes it" if checkpoints else None


def _removed(store: Store, path: Path, rules: Rules, swept: Swept, wanted: Callable[[], bool] = lambda: False) -> bool:
    """Remove a folder unless a build holds its artifact; say whether it went."""
    try:
        with _held(store, path.name):
            if wanted():
                return False
            size = size_of(path)
            if not rules.dry_run:
                _remove(path, store.works)
    except BlockingIOError:
        swept.kept.append(f"{path.name}: a build holds it")
        return False
    swept.removed.append((path.name, size))
    return True


@contextmanager
def _held(store: Store, name: str) -> Iterator[None]:
    """Hold the locks of an artifact, that of its making and that of its use; they are gone afterwards.

    Raises BlockingIOError where a build holds one.
    """
    match = _ARTIFACT.fullmatch(name)
    assert match is not None, name
    made, used = (store.works / f"{match['artifact']}{kind}" for kind in _LOCKS)
    exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
    with locked(made, exclusive), locked(used, exclusive):
        yield
        made.unlink()
        used.unlink()


def _remove(path: Path, works: Path) -> None:
    """Take a folder away under its name, then delete it: killed in between, a leftover remains, never half of it."""
    gone = works / f".{path.name.removeprefix('.')}.gone-{os.getpid()}"
    path.rename(gone)
    if gone.is_dir() and not gone.is_symlink():
        for place, _, _ in os.walk(gone):
            Path(place).chmod(0o700)  # a folder made read-only keeps what is in it
        shutil.rmtree(gone)
    else:
        gone.unlink()


def _edited(store: Store, rules: Rules, swept: Swept) -> None:
    """Remove copies of files changed by hand, where an age is given: until then they are the only ones."""
    if not rules.older_than:
        return
    for path in sorted((store.build / ".edited").rglob("*.edited-*")):
        if path.is_file() and time.time() - path.stat().st_ctime > rules.older_than:
            swept.removed.append((str(path.relative_to(store.root)), size_of(path)))
            if not rules.dry_run:
                path.unlink()


def _marks(store: Store, rules: Rules, swept: Swept) -> None:
    """Remove marks of what was checked before; one that is still of use is made anew in a moment."""
    folder, age = store.build / ".cache" / "checked", max(rules.older_than, _DAY)
    marks = [path for path in folder.glob("*") if time.time() - path.stat().st_mtime > age]
    if marks:
        swept.removed.append((f"{len(marks)} marks in build/.cache/checked", sum(map(size_of, marks))))
    for path in () if rules.dry_run else marks:
        path.unlink()


def _lock_files(store: Store, rules: Rules) -> None:
    if rules.dry_run:
        return
    for path in _inside(store.works):
        if path.suffix in _LOCKS and _ARTIFACT.fullmatch(path.name):
            try:
                with locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    path.unlink()
            except BlockingIOError:
                continue  # a build's


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
