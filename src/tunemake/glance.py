"""What the last full look at a fresh project saw, so that a build that finds all of it as it was need not look again.

While a project is loaded and a stage is judged, whatever is opened or listed is noted with its stat data, of which an
audit hook tells; what is only looked for says so itself (`look_at`). The notes are a cache: lost, damaged or outdated,
they cost a full look.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FILE = Path("build") / ".cache" / "glance.json"  # in a project
_FORM = 1
_EVENTS = frozenset({"open", "os.listdir", "os.scandir"})
# A file changed again within one tick of the file system's clock keeps its times; younger ones are not relied on.
_TICK_NS = 50_000_000
_STARTED = time.time_ns()
Stamp = list[int]
Stamps = dict[str, Stamp]


class Notes:
    """Stat data of what was looked at in and for a project, by path.

    steady: none of it was too young, or changed meanwhile.
    """

    def __init__(self, root: Path) -> None:
        self._caches = str(root.absolute() / FILE.parent)
        self.stamps: Stamps = {}
        self.steady = True

    def add(self, path: str) -> None:
        """Note a file or folder before it is read; caches of ours and of Python's decide nothing."""
        place = os.path.abspath(path)  # noqa: PTH100 - a link stays one, and this is called for every file
        name = place.rpartition(os.sep)[2]
        if place.startswith(self._caches) or name == "__pycache__" or ".pyc" in name:
            return
        now = stamp(place)
        if self.stamps.setdefault(place, now) != now or _is_young(now, time.time_ns()):
            self.steady = False


_notes: Notes | None = None
_hooked = False


def look_at(path: str | os.PathLike[str]) -> None:
    """Tell of a path that is looked for, or whose stat data are believed, without it being opened."""
    if _notes is not None:
        _notes.add(os.fspath(path))


@contextmanager
def noting(root: Path) -> Iterator[Notes]:
    """Note all that is looked at inside, in and for the project in a folder."""
    global _notes, _hooked  # noqa: PLW0603 - a hook is for the whole process, and for good
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    before, _notes = _notes, Notes(root)
    try:
        yield _notes
    finally:
        _notes = before


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _notes is None or event not in _EVENTS:
        return
    path = "." if arguments[0] is None else arguments[0]
    if not isinstance(path, int):  # a descriptor was opened by its path before
        _notes.add(os.fsdecode(path))


def stamp(path: str) -> Stamp:
    """Give the stat data of a path, of a link also those of what it leads to; [] where there is nothing."""
    try:
        found = os.lstat(path)
        told = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        return [*told, *_followed(path)] if stat.S_ISLNK(found.st_mode) else told
    except OSError:
        return []


def _followed(path: str) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast, and this is all that a build with nothing to do does
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _is_young(told: Stamp, now: int) -> bool:
    return any(now - told[index] < _TICK_NS for at in range(0, len(told), 4) for index in (at + 1, at + 2))


def keep_stamps(root: Path, names: Sequence[str]) -> None:
    """Keep the stat data of project.toml and of other files and links, which a file was written of.

    names: that file first, the others after it.
    """
    path = _kept(root, names)
    with suppress(OSError):  # then the next build looks again
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(_stamps(root, names)), "utf-8")
        draft.replace(path)


def stamps_stand(root: Path, names: Sequence[str]) -> bool:
    """Say whether all is as it was when stamps of it were kept."""
    try:
        return bool(json.loads(_kept(root, names).read_text("utf-8")) == _stamps(root, names))
    except (OSError, ValueError):
        return False


def _kept(root: Path, names: Sequence[str]) -> Path:
    return (root / FILE).with_name(f"{names[0]}.json")


def _stamps(root: Path, names: Sequence[str]) -> Stamps:
    return {name: stamp(str(root / name)) for name in [*names, "project.toml"]}


class Glance:
    """The notes of a project: its tasks as they were described, and what each of its fresh stages stands on."""

    def __init__(self, root: Path) -> None:
        self._root, self._path = str(root), root / FILE
        self._known = _read(self._path)
        self._changed = False

    def tasks(self) -> list[dict[str, Any]] | None:
        """Give the tasks, or None where anything that the project was loaded from may be another now."""
        known = self._known
        if known.get("of") != self._of() or not _stands(known.get("project")):
            self._known = {}
            return None
        tasks: list[dict[str, Any]] = known["tasks"]
        return tasks

    def is_fresh(self, name: str) -> bool:
        """Say whether a stage was found fresh, and all that this stands on is as it was."""
        return _stands(self._known.get("stages", {}).get(name))

    def loaded(self, tasks: list[dict[str, Any]], notes: Notes) -> None:
        """Keep the tasks of a project just loaded, and what it was loaded from."""
        code = _code()
        if notes.steady and not any(_is_young(told, _STARTED) for told in code.values()):
            project = {**notes.stamps, **code}
            self._known = {"form": _FORM, "of": self._of(), "project": project, "tasks": tasks, "stages": {}}
            self._changed = True

    def judged_fresh(self, name: str, notes: Notes) -> None:
        """Keep what a stage's being fresh stands on; what lies outside of the project, once for all of them."""
        if notes.steady and self._known:
            inside = {path: told for path, told in notes.stamps.items() if path.startswith(self._root + os.sep)}
            self._known["stages"][name] = inside
            self._known["project"] |= {path: told for path, told in notes.stamps.items() if path not in inside}
            self._changed = True

    def save(self) -> None:
        """Write the notes where they are others than before, whole or not at all."""
        if not self._changed:
            return
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):  # a full disk, a read-only folder: then the next build looks again
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(self._known), "utf-8")
            draft.replace(self._path)
            self._changed = False

    def _of(self) -> list[Any]:
        return [self._root, sys.version, sys.prefix, _search_path()]


def _stands(stamps: Mapping[str, Stamp] | None) -> bool:
    return stamps is not None and all(stamp(path) == told for path, told in stamps.items())


def _search_path() -> list[str]:
    """Give where distributions are found, apart from what `doit` and `python -m doit` put first."""
    here = {"", os.getcwd(), os.path.dirname(sys.argv[0])}  # noqa: PTH109, PTH120 - as they stand in sys.path
    return [place for place in sys.path if place not in here]


def _code() -> Stamps:
    """Give the folders that distributions are found in, and tunemake's own code as it was imported."""
    files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("tunemake")]
    folders = [place for place in _search_path() if Path(place).is_dir()]
    return {str(Path(path).absolute()): stamp(str(path)) for path in [*folders, *(file for file in files if file)]}


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and known.get("form") == _FORM else {}
