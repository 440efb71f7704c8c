"""Artifacts by fingerprint under build/, the links that show them, and the marks of what must be made anew."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunemake.artifacts import changed_outputs, point, read_record, recover
from tunemake.digests import DIGESTS, Digests
from tunemake.staleness import Decides


class Store:
    """The folders of one project's build.

    build/.store/<stage>-<fingerprint>/ the artifacts; build/.work/ what is being made; build/<variant>/<stage> links.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.build = root / "build"
        self.digests = Digests(root / DIGESTS)

    def entry(self, decides: Decides) -> Path:
        """Give the place of an artifact, made or not."""
        return self.build / ".store" / decides.folder_name

    def work(self, decides: Decides) -> Path:
        """Give the folder that an artifact is made in."""
        return self.build / ".work" / decides.folder_name

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

    def forget(self, link: str) -> None:
        """Mark what a link shows to be made anew by the next build, whatever it will be made from then."""
        mark = self._forgotten(link)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def is_forgotten(self, link: str) -> bool:
        """Say whether what a link shows is to be made anew."""
        return self._forgotten(link).exists()

    def show(self, link: str, decides: Decides) -> None:
        """Point a link to the artifact; it is no longer forgotten."""
        point(self.root / link, self.entry(decides))
        self._forgotten(link).unlink(missing_ok=True)

    def is_shown(self, link: str, decides: Decides) -> bool:
        """Say whether a link shows this artifact."""
        path = self.root / link
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
        path = self.build / ".work" / f"{decides.folder_name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                wait(file.read() or "?")
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield file.fileno()

    def _forgotten(self, link: str) -> Path:
        return self.build / ".forgotten" / link.removeprefix("build/").replace("/", "-")
