"""What a store holds: each artifact with its size, its age and the links that show it; and whether it is whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunemake.artifacts import RECORD, elsewhere, read_record
from tunemake.digests import sha256_of_file
from tunemake.staleness import Decides
from tunemake.store import Store


@dataclass(frozen=True)
class Held:
    """An artifact of a store.

    size: bytes of its own files; what links lead to does not count. age: seconds since it was put there. shown_by: the
    links that show it, those of other projects by their whole path. needed: whether a link shows it, or what is shown
    was made from it. elsewhere: how many of its files were not fetched. readable: whether it has a record.
    """

    path: Path
    stage: str
    size: int
    age: float
    shown_by: tuple[str, ...]
    needed: bool
    elsewhere: int
    readable: bool


def holdings(store: Store) -> list[Held]:
    """List a store's artifacts, the oldest first."""
    shown = links(store)
    records = {path: read_record(path) for path in _entries(store)}
    needed = _needed(shown.keys() & records.keys(), {path: record for path, record in records.items() if record})
    found = [_held(path, record, shown.get(path, []), needed) for path, record in records.items()]
    return sorted(found, key=lambda held: -held.age)


def links(store: Store) -> dict[Path, list[str]]:
    """Give the links of all projects of a store that show an artifact of it, by the artifact."""
    shown: dict[Path, list[str]] = {}
    for root in store.projects():
        for link in _links_under(root / "build"):
            target = link.resolve()
            if target.parent == store.entries.resolve():
                told = link.relative_to(root) if root == store.root else link
                shown.setdefault(store.entries / target.name, []).append(str(told))
    return shown


def flaws(store: Store) -> tuple[int, list[str]]:
    """Read every file of every artifact; give how many were read, and what is not as its record tells."""
    return flaws_in({entry.name: entry for entry in _entries(store)})


def flaws_in(entries: Mapping[str, Path]) -> tuple[int, list[str]]:
    """Tell as `flaws` does of some artifacts, by the names that they are to be told under."""
    found: list[str] = []
    files: list[tuple[str, Path, str]] = []
    for title, entry in entries.items():
        record = read_record(entry)
        if record is None:
            found.append(f"{title}: no record that this version understands")
            continue
        if not _is_of_its_fingerprint(entry, record):
            found.append(f"{title}/{RECORD} is not that of its fingerprint")
        left = elsewhere(entry)
        files += [
            (f"{title}/{name}", entry / name, output["sha256"]) for name, output in record["outputs"].items()
            if name not in left or (entry / name).exists()
        ]  # fmt: skip
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # Not by the remembered digests: damage to a disk changes neither size nor times.
        told = pool.map(lambda file: _flaw(*file), files)
        return len(files), found + [flaw for flaw in told if flaw is not None]


def size_of(path: Path) -> int:
    """Give the bytes of a file, or of the files under a folder; links count for nothing."""
    if not path.is_dir() or path.is_symlink():
        return 0 if path.is_symlink() else path.stat().st_size
    inside = (Path(place) / name for place, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in inside if not file.is_symlink())


def _entries(store: Store) -> list[Path]:
    if not store.entries.is_dir():
        return []
    return sorted(path for path in store.entries.iterdir() if path.is_dir() and not path.name.startswith("."))


def _held(path: Path, record: Mapping[str, Any] | None, shown: Iterable[str], needed: set[Path]) -> Held:
    mark = path / RECORD
    age = time.time() - (mark if mark.exists() else path).stat().st_mtime
    stage = path.name.rpartition("-")[0]
    left = elsewhere(path)
    away = sum(not (path / name).exists() for name in left)
    return Held(path, stage, size_of(path), max(age, 0.0), tuple(shown), path in needed, away, record is not None)


def _links_under(build: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(build):
        yield from (Path(place) / name for name in [*folders, *names] if (Path(place) / name).is_symlink())
        folders[:] = [name for name in folders if not name.startswith(".")]


def _needed(shown: Iterable[Path], records: Mapping[Path, Mapping[str, Any]]) -> set[Path]:
    """Give what is shown, and whatever holds the files that it was made from, and so on."""
    makers: dict[tuple[str, str], set[Path]] = {}
    for path, record in records.items():
        for name, output in record["outputs"].items():
            makers.setdefault((name, output["sha256"]), set()).add(path)
    found, waiting = set[Path](), list(shown)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _made_from(records.get(path, {}), makers)
    return found


def _made_from(record: Mapping[str, Any], makers: Mapping[tuple[str, str], set[Path]]) -> set[Path]:
    roles: dict[str, list[tuple[str, str]]] = {}
    for told, digest in record.get("inputs", {}).items():
        role, _, name = told.partition("/")
        roles.setdefault(role, []).append((name, digest))
    empty: set[Path] = set()
    return empty.union(*(set.intersection(*(makers.get(file, empty) for file in files)) for files in roles.values()))


def _is_of_its_fingerprint(entry: Path, record: Mapping[str, Any]) -> bool:
    told = (record.get(name, {}) for name in ("parameters", "inputs", "sources", "code"))
    decides = Decides(record.get("stage", ""), record.get("stage_version", 0), *told)
    return decides.fingerprint == record["fingerprint"] and decides.folder_name == entry.name


def _flaw(name: str, path: Path, digest: str) -> str | None:
    try:
        return None if sha256_of_file(path) == digest else f"{name} is not as recorded"
    except OSError as error:
        return f"{name}: {error.strerror}"
