"""Records, and the atomic commit of a finished folder; the only writer under build/.

An artifact is a folder with an `artifact.json` in it, complete or absent: the record is written last, everything is
flushed to disk, and one rename puts the folder in its place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunemake.digests import Digests
from tunemake.faults import Fault, StageError
from tunemake.glance import look_at
from tunemake.staleness import Decides

RECORD = "artifact.json"
ELSEWHERE = ".elsewhere.json"
FORMAT = 1
_KEYS = {"fingerprint", "stage_version", "parameters", "inputs", "outputs"}


@dataclass(frozen=True)
class Made:
    """What is known of a stage's run beside what it made.

    started: UTC, ISO 8601. seconds: wall time of the run that ended it. runtime: values that only decided how it ran.
    facts: what the stage tells of its result.
    """

    started: str
    seconds: float
    environment: Mapping[str, str]
    runtime: Mapping[str, Any]
    facts: Mapping[str, Any]


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read a folder's record; None where there is none, or none that this version understands."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and record.get("format") == FORMAT and record.keys() >= _KEYS
    return record if whole else None


def elsewhere(folder: Path) -> frozenset[str]:
    """Name the recorded files that lie in another store: the artifact was fetched without them."""
    try:
        return frozenset(json.loads((folder / ELSEWHERE).read_text("utf-8")))
    except (FileNotFoundError, ValueError):  # where it was lost, the files count as gone
        return frozenset()


def changed_outputs(folder: Path, record: Mapping[str, Any], digests: Digests) -> list[str]:
    """Name the recorded files that are gone or not as recorded, with what is wrong, but for those left elsewhere."""
    changed = []
    for name, output in record["outputs"].items():
        path = folder / name
        look_at(path)
        try:
            if path.stat().st_size != output["size"] or digests.of(path) != output["sha256"]:
                changed.append(f"{name} was changed by hand")
        except OSError:
            if name not in elsewhere(folder):
                changed.append(f"{name} is gone")
    return changed


def files_under(folder: Path) -> list[str]:
    """List the files that belong to an artifact, links to files among them, without hidden ones and the record."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(place).relative_to(folder)
        found += [(relative / name).as_posix() for name in sorted(names) if not name.startswith(".")]
    return [name for name in found if name != RECORD]


def commit(  # noqa: PLR0917 - each is another thing
    work: Path, entry: Path, decides: Decides, made: Made, wanted: Iterable[str], digests: Digests
) -> None:
    """Turn a finished work folder into the artifact at `entry`.

    wanted: the files that must be there. Raises StageError where one is not; then nothing has changed.
    """
    missing = [name for name in wanted if not (work / name).exists()]
    if missing:
        fault = Fault(decides.stage, f"ended without making {', '.join(missing)}", next_step="see its log")
        raise StageError(fault)
    _remove_hidden(work)
    names = files_under(work)
    sums = digests.of_many(work / name for name in names)
    outputs = {
        name: {"size": (work / name).stat().st_size, "sha256": digest} for name, digest in zip(names, sums, strict=True)
    }
    record = {"format": FORMAT, "fingerprint": decides.fingerprint, **_told(decides), **asdict(made)}
    _write_record(work / RECORD, {**record, "outputs": outputs})
    _put_in_place(work, entry, names)
    for name, digest in zip(names, sums, strict=True):
        digests.remember(entry / name, digest)


def recover(work: Path, entry: Path, fingerprint: str, digests: Digests) -> bool:
    """Put a work folder in place that was finished, record and all, when its build was killed; say whether it was."""
    record = read_record(work)
    if record is None or record["fingerprint"] != fingerprint or changed_outputs(work, record, digests):
        return False
    _put_in_place(work, entry, [name for name in record["outputs"] if (work / name).exists()])
    return True


def _put_in_place(work: Path, entry: Path, names: Iterable[str]) -> None:
    # Read-only only now that the record stands: a work folder without one may be worked in again.
    _protect(work, names)
    _flush(work, names)
    replace_folder(work, entry)


def replace_folder(new: Path, place: Path) -> None:
    """Put a folder in its place; what was there goes only once the new one stands."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in new.parent.glob(f".{place.name}.old-*"):  # by a build killed right here
        _remove(left)
    old = new.with_name(f".{place.name}.old-{os.getpid()}")
    if place.exists():
        place.rename(old)
    new.rename(place)
    _flush_folder(place.parent)
    with suppress(OSError):
        _remove(old)


def point(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))  # either may lie behind a link
    draft.replace(link)


def _told(decides: Decides) -> dict[str, Any]:
    told = asdict(decides)
    told["stage_version"] = told.pop("version")
    return told


def _remove_hidden(work: Path) -> None:
    for path in list(work.iterdir()):
        if path.name.startswith("."):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _protect(work: Path, names: Iterable[str]) -> None:
    for name in names:
        path = work / name
        if path.resolve().is_relative_to(work.resolve()):  # never a file of the user's that a link leads to
            path.chmod(0o444)


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")
    path.chmod(0o444)


def _flush(work: Path, names: Iterable[str]) -> None:
    for name in [*names, RECORD]:
        descriptor = os.open(work / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    _flush_folder(work)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
