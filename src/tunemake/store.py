"""Artifacts by fingerprint, the links under build/ that show them, and the marks of what must be made anew."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from tunemake.artifacts import ELSEWHERE, RECORD, changed_outputs, point, read_record, recover
from tunemake.digests import DIGESTS, Digests, sha256_of_bytes
from tunemake.faults import Fault, InputError
from tunemake.glance import look_at
from tunemake.staleness import Decides


class Store:
    """The folders of one project's build.

    entries: the artifacts, <stage>-<fingerprint>/. works: what is being made; on the same file system, so that one
    rename commits. They are build/.store and build/.work, or lie in a folder that several projects share.
    build/<variant>/<stage> are the links.
    """

    def __init__(self, root: Path, shared: str | None = None) -> None:
        self.root = root
        self.build = root / "build"
        self.shared = None if shared is None else (root / Path(shared).expanduser()).resolve()
        self.entries = self.build / ".store" if self.shared is None else self.shared / "store"
        self.works = self.build / ".work" if self.shared is None else self.shared / "work"
        self.digests = Digests(root / DIGESTS)

    def entry(self, decides: Decides) -> Path:
        """Give the place of an artifact, made or not."""
        return self.entries / decides.folder_name

    def work(self, decides: Decides) -> Path:
        """Give the folder that an artifact is made in."""
        return self.works / decides.folder_name

    def record(self, link: str) -> dict[str, Any] | None:
        """Read the record of the artifact that a link shows."""
        return read_record(self.root / link)

    def flaws(self, decides: Decides) -> list[str] | None:
        """Say what is wrong with an artifact of this fingerprint: [] nothing, None there is no such artifact."""
        entry = self.entry(decides)
        record = read_record(entry)
        if record is None or record["fingerprint"] != decides.fingerprint:
            return None
        return changed_outputs(entry, record, self.digests)

    def holds(self, decides: Decides) -> bool:
        """Say whether the artifact is there, whole; one finished by a build that was killed then is put in place."""
        if self.flaws(decides) == []:
            return True
        return recover(self.work(decides), self.entry(decides), decides.fingerprint, self.digests)

    def adopts(self, link: str, decides: Decides) -> bool:
        """Copy the artifact that a link still shows in another store, where the project names a new one; say if so."""
        shown = (self.root / link).resolve()
        record = read_record(shown)
        if record is None or record["fingerprint"] != decides.fingerprint or shown == self.entry(decides).resolve():
            return False
        shutil.rmtree(self.draft(decides), ignore_errors=True)
        shutil.copytree(shown, self.draft(decides), symlinks=True)
        return self.takes(decides)

    def draft(self, decides: Decides) -> Path:
        """Give the folder that an artifact made elsewhere is fetched into."""
        return self.works / f"{decides.folder_name}.fetched"

    def takes(self, decides: Decides, left: Sequence[str] = ()) -> bool:
        """Put a fetched artifact in its place, if it is whole; say whether it is.

        left: names of recorded files that stay elsewhere.
        """
        draft = self.draft(decides)
        if left:
            (draft / ELSEWHERE).write_text(json.dumps(left), "utf-8")
        return recover(draft, self.entry(decides), decides.fingerprint, self.digests)

    def made_here(self, entry: Path) -> bool:
        """Say whether the project's log knows an artifact, by its record, as made in this build folder."""
        log, digest = self.build / "log.jsonl", sha256_of_bytes((entry / RECORD).read_bytes())
        return log.exists() and f'"record": "{digest}"' in log.read_text("utf-8")

    def forget(self, link: str) -> None:
        """Mark what a link shows to be made anew by the next build, whatever it will be made from then."""
        mark = self._forgotten(link)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def is_forgotten(self, link: str) -> bool:
        """Say whether what a link shows is to be made anew."""
        mark = self._forgotten(link)
        look_at(mark)
        return mark.exists()

    def show(self, link: str, decides: Decides) -> None:
        """Point a link to the artifact; it is no longer forgotten. Raises InputError where something else is there."""
        path = self.root / link
        if path.exists() and not path.is_symlink():
            what = "a folder" if path.is_dir() else "a file"
            step = "move it away and run doit again"
            raise InputError(Fault(link, f"{what} of this name is there", "the link to the artifact", next_step=step))
        self._register()
        point(self.root / link, self.entry(decides))
        self._forgotten(link).unlink(missing_ok=True)

    def is_shown(self, link: str, decides: Decides) -> bool:
        """Say whether a link shows this artifact."""
        path = self.root / link
        look_at(path)
        return path.is_symlink() and path.resolve() == self.entry(decides).resolve()

    def set_aside(self, decides: Decides) -> dict[str, Path]:
        """Take files changed by hand out of an artifact about to be made anew; give their names and new places."""
        entry, kept = self.entry(decides), {}
        record = read_record(entry)
        if record is None:
            return {}
        stamp = time.strftime("%Y%m%dT%H%M%S")
        for flaw in changed_outputs(entry, record, self.digests):
            name = flaw.removesuffix(" was changed by hand")
            if name != flaw and not (entry / name).is_symlink() and entry.resolve() in (entry / name).resolve().parents:
                kept[name] = self.build / ".edited" / decides.folder_name / f"{name}.edited-{stamp}"
                kept[name].parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(entry / name, kept[name])
        return kept

    @contextmanager
    def lock(self, decides: Decides, wait: Callable[[str], None]) -> Iterator[int]:
        """Hold the lock of an artifact in the making; gives its descriptor, for the process that makes it to share.

        wait: told once, with the number of the process, where another one holds it. The kernel drops the lock when the
        last holder ends, however it ends.
        """
        with locked(self.works / f"{decides.folder_name}.lock", fcntl.LOCK_EX, wait) as file:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield file.fileno()

    @contextmanager
    def using(self, folders: Iterable[Path]) -> Iterator[None]:
        """Keep artifacts from being removed while they are read; raises InputError where one has gone."""
        with ExitStack() as held:
            for folder in folders:
                held.enter_context(locked(self.works / f"{folder.name}.use", fcntl.LOCK_SH))
                if not folder.is_dir():
                    raise InputError(Fault(folder.name, "was removed just now", next_step="run doit again"))
            yield

    def projects(self) -> list[Path]:
        """Give the folders of the projects whose links show artifacts of this store, as far as they still exist."""
        if self.shared is None:
            return [self.root]
        noted = [Path(file.read_text("utf-8")) for file in sorted((self.shared / "projects").glob("*"))]
        return [root for root in dict.fromkeys([self.root, *noted]) if (root / "build").is_dir()]

    def _register(self) -> None:
        if self.shared is None:
            return
        note = self.shared / "projects" / sha256_of_bytes(str(self.root).encode())[:16]
        if not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            draft = self.works / f".{note.name}.{os.getpid()}"
            draft.write_text(str(self.root), "utf-8")
            draft.replace(note)

    def _forgotten(self, link: str) -> Path:
        return self.build / ".forgotten" / link.removeprefix("build/").replace("/", "-")


@contextmanager
def locked(path: Path, kind: int, wait: Callable[[str], None] | None = None) -> Iterator[TextIOWrapper]:
    """Hold a lock file, LOCK_EX or LOCK_SH; whoever sweeps may remove it while nobody does, and it is made anew.

    wait: told what the file says where another one holds it. Raises BlockingIOError there for kind | LOCK_NB.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if kind & fcntl.LOCK_NB:
                    raise
                if wait is not None:
                    file.seek(0)
                    wait(file.read() or "?")
                fcntl.flock(file, kind)
            if _is_at(file, path):
                yield file
                return


def _is_at(file: TextIOWrapper, path: Path) -> bool:
    """Say whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
