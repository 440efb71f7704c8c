"""SHA-256 of files, remembered by size, times and inode, so that an unchanged file costs one stat."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunemake.glance import look_at

DIGESTS = Path("build") / ".cache" / "digests.json"  # in a project
_BLOCK = 1 << 20
# A file changed again within one tick of the file system's clock keeps its times; younger files are not remembered.
_TICK_NS = 50_000_000


def sha256_of_bytes(data: bytes) -> str:
    """Give the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """Give the SHA-256 of a JSON value's canonical form: sorted keys, no spaces, UTF-8."""
    return sha256_of_bytes(canonical(value).encode())


def canonical(value: Any) -> str:
    """Write a JSON value in the one form that is digested."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_of_file(path: Path) -> str:
    """Read a file through and give its SHA-256; hashlib releases the GIL, so files hash in parallel."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


class Digests:
    """Digests of files, remembered in a cache file that may be lost at any time.

    A file touched but equal is hashed once more, then remembered again.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = _read(cache)
        self._changed = False

    def of(self, path: Path) -> str:
        """Give the SHA-256 of a file; raises OSError where it cannot be read."""
        look_at(path)
        key, stamp = _stamp(path)
        known = self._known.get(key)
        if known is not None and known[:-1] == stamp:
            return str(known[-1])
        young = time.time_ns() - max(stamp[1], stamp[2]) < _TICK_NS
        digest = sha256_of_file(path)
        if not young and _stamp(path) == (key, stamp):
            self.remember(path, digest)
        return digest

    def of_many(self, paths: Iterable[Path]) -> list[str]:
        """Give the digests of several files, hashed in parallel, in the order given."""
        listed = list(paths)
        if len(listed) < 2 or all(self.is_known(path) for path in listed):  # noqa: PLR2004 - one needs no pool
            return [self.of(path) for path in listed]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(self.of, listed))

    def is_known(self, path: Path) -> bool:
        """Say whether a file's digest is remembered and its stat data are the remembered ones."""
        key, stamp = _stamp(path)
        known = self._known.get(key)
        return known is not None and known[:-1] == stamp

    def remember(self, path: Path, digest: str) -> None:
        """Remember a digest for a file as it is now."""
        key, stamp = _stamp(path)
        self._known[key] = [*stamp, digest]
        self._changed = True

    def refresh(self) -> None:
        """Learn what another process has written into the cache since."""
        self._known |= _read(self._cache)

    def save(self) -> None:
        """Write the cache, if anything new was learnt; where that cannot be, the next run hashes again."""
        if not self._changed:
            return
        self._known = {**_read(self._cache), **self._known}
        with suppress(OSError):
            replace_text(self._cache, json.dumps(self._known))
            self._changed = False


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises OSError where that cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, "utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _stamp(path: Path) -> tuple[str, list[int]]:
    """Say which file it is, whatever link or name leads to it, and how it is now."""
    stat = path.stat()
    return f"{stat.st_dev}:{stat.st_ino}", [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read(cache: Path) -> dict[str, list[Any]]:
    # Only a cache: whatever is wrong with it, hashing again gives the same answers.
    try:
        known = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    entry_length = 5
    return {key: entry for key, entry in known.items() if isinstance(entry, list) and len(entry) == entry_length}
