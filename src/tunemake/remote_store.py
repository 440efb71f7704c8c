"""Artifacts in a store that a team shares, over fsspec: sent after they are made, looked for before.

records/<stage>-<fingerprint>.json are the records, files/<sha256> the files. A record is written after its files, so
that an artifact is complete or absent here too. Whoever may write to the store is not trusted further than this: a
record must be that of the fingerprint asked for, a file must be what the record says, and neither code nor pickles are
taken. Nothing here ends a build: where the store fails, a line says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tunemake.artifacts import RECORD, read_record
from tunemake.remote_records import Outputs, RefusedError, check_config, check_last_checkpoint, checked_outputs, is_left
from tunemake.staleness import Decides
from tunemake.transfers import Progress, Tell, each, within

# A base model leads to files of the machine; a training config is Python code, and a report a page that a browser runs:
# both are rendered in a moment. Whether the gate has passed is decided here.
NEVER_FETCHED = frozenset({"base", "config", "report", "gate"})
_RECORD_ONLY = frozenset({"base"})
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})  # they have no folders
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"s3": _S3, "s3a": _S3}
_LONGEST_RECORD = 1 << 24
_BLOCK = 1 << 20


class RemoteStore:
    """A shared store.

    url: as fsspec names it, without credentials. checkpoints: whether those of a training are sent too. patience:
    seconds that a small question may take; few protocols have a limit of their own.
    """

    def __init__(self, url: str, *, checkpoints: bool, patience: float = 15.0) -> None:
        self.url = url.rstrip("/")
        self._checkpoints, self._patience = checkpoints, patience
        self._down: set[str] = set()  # of "read" and "write", what is no longer tried
        self._refused: set[str] = set()  # what was found there and not taken: replaced when it is sent
        self._opened: tuple[int, Any, str] | None = None

    def fetch(self, decides: Decides, wanted: Iterable[str], place: Path, tell: Tell) -> list[str] | None:
        """Fill the folder `place` with an artifact; give the names of its files that are left in the store.

        wanted: the files that it must have. None where it is not there, or where it is refused, which is told.
        """
        if decides.stage in NEVER_FETCHED or "read" in self._down:
            return None
        name = _name(decides.stage, decides.fingerprint)
        try:
            text = within(self._patience, partial(self._read, f"records/{name}.json"))
            outputs = checked_outputs(text, decides, wanted)
            left = sorted(file for file in outputs if is_left(decides.stage, file, checkpoints=False))
            self._fill(place, {file: outputs[file] for file in outputs if file not in left}, tell)
            _check_content(decides, place, outputs)
            (place / RECORD).write_bytes(text)
            (place / RECORD).chmod(0o444)
        except FileNotFoundError:
            return None
        except RefusedError as error:
            self._refused.add(name)
            tell({"say": f"{self.url}: {decides.folder_name} is not taken: {error}; it is made here"})
        except Exception as error:  # noqa: BLE001 - whatever a protocol's library raises
            self._down |= {"read", "write"}
            tell({"say": f"{self.url} cannot be read ({_named(error)}); this build goes on with the local store alone"})
        else:
            return left
        shutil.rmtree(place, ignore_errors=True)
        return None

    def offers(self, decides: Decides, tell: Tell) -> bool:
        """Say whether a record of an artifact that can be fetched is there; what it holds is looked at when it is."""
        if decides.stage in NEVER_FETCHED or "read" in self._down:
            return False
        try:
            place = f"records/{_name(decides.stage, decides.fingerprint)}.json"
            return within(self._patience, partial(self._size, place)) is not None
        except Exception as error:  # noqa: BLE001 - whatever a protocol's library raises
            self._down |= {"read", "write"}
            tell({"say": f"{self.url} cannot be read ({_named(error)}); what it has is not known"})
            return False

    def complete(self, entry: Path, names: Iterable[str], tell: Tell) -> bool:
        """Fetch files that an artifact was fetched without; say whether all of them are there now."""
        record = read_record(entry)
        if record is None or "read" in self._down:
            return False
        draft = entry.with_name(f".{entry.name}.{os.getpid()}")
        try:
            self._fill(draft, {name: record["outputs"][name] for name in names}, tell)
            for name in names:
                (draft / name).chmod(0o444)
                (entry / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).replace(entry / name)
        except (FileNotFoundError, RefusedError) as error:
            tell({"say": f"{self.url}: {entry.name}: {error}"})
        except Exception as error:  # noqa: BLE001 - as above
            self._down |= {"read", "write"}
            tell({"say": f"{self.url} cannot be read ({_named(error)})"})
        else:
            return True
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return False

    def send(self, entry: Path, tell: Tell) -> bool:
        """Send an artifact unless it is there: its files, then its record. Say whether it is there now."""
        record = read_record(entry)
        if record is None or "write" in self._down:
            return False
        name = _name(record["stage"], record["fingerprint"])
        anew = name in self._refused
        try:
            if not anew and within(self._patience, partial(self._size, f"records/{name}.json")) is not None:
                return True
            self._send_files(entry, self._sent(record), tell, anew=anew)
            self._write(f"records/{name}.json", (entry / RECORD).read_bytes())
        except Exception as error:  # noqa: BLE001 - as above
            self._down.add("write")
            tell({"say": f"{self.url} cannot be written ({_named(error)}); what this build makes stays here"})
            return False
        self._refused.discard(name)
        return True

    def _sent(self, record: Mapping[str, Any]) -> Outputs:
        if record["stage"] in _RECORD_ONLY:
            return {}
        return {
            name: output for name, output in record["outputs"].items()
            if not is_left(record["stage"], name, checkpoints=self._checkpoints)
        }  # fmt: skip

    def _send_files(self, entry: Path, outputs: Outputs, tell: Tell, *, anew: bool) -> None:
        progress = Progress("sending", _bytes(outputs), tell)

        def send(name: str) -> None:
            place = f"files/{outputs[name]['sha256']}"
            if anew or self._size(place) != outputs[name]["size"]:
                self._write(place, entry / name)
            progress.add(outputs[name]["size"])

        each(send, outputs)

    def _fill(self, place: Path, outputs: Outputs, tell: Tell) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        progress = Progress("fetching", _bytes(outputs), tell)

        def fetch(name: str) -> None:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._fetch_file(place / name, outputs[name], progress)
            except FileNotFoundError:
                raise RefusedError(f"{name} is not there") from None
            except RefusedError as error:
                raise RefusedError(f"{name} {error}") from None

        each(fetch, outputs)

    def _fetch_file(self, target: Path, output: Mapping[str, Any], progress: Progress) -> None:
        system, root = self._system()
        digest, count = hashlib.sha256(), 0
        with target.open("xb") as file, system.open(f"{root}/files/{output['sha256']}", "rb") as source:
            while block := source.read(_BLOCK):
                count += len(block)
                if count > output["size"]:
                    break
                digest.update(block)
                file.write(block)
                progress.add(len(block))
        if count != output["size"] or digest.hexdigest() != output["sha256"]:
            raise RefusedError("is damaged there: not the size and SHA-256 that the record tells")

    def _read(self, place: str) -> bytes:
        system, root = self._system()
        return bytes(system.cat_file(f"{root}/{place}", start=0, end=_LONGEST_RECORD))

    def _size(self, place: str) -> int | None:
        system, root = self._system()
        try:
            return int(system.info(f"{root}/{place}")["size"])
        except FileNotFoundError:
            return None

    def _write(self, place: str, content: bytes | Path) -> None:
        system, root = self._system()
        target = f"{root}/{place}"
        flat = self.url.partition("://")[0] in _OBJECT_STORES
        if not flat:
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
        # An object appears whole; a file grows, and so takes its name once it has.
        draft = target if flat else f"{target}.{os.getpid()}.{threading.get_ident()}"
        if isinstance(content, Path):
            system.put_file(str(content), draft)
        else:
            system.pipe_file(draft, content)
        if draft != target:
            system.mv(draft, target)

    def _system(self) -> tuple[Any, str]:
        """Give fsspec's file system and the store's place in it; a forked process opens its own."""
        if self._opened is None or self._opened[0] != os.getpid():
            from fsspec.core import url_to_fs

            options = _OPTIONS.get(self.url.partition("://")[0], {})
            system, root = url_to_fs(self.url, use_listings_cache=False, **options)
            self._opened = (os.getpid(), system, str(root).rstrip("/"))
        return self._opened[1], self._opened[2]


def _check_content(decides: Decides, place: Path, outputs: Outputs) -> None:
    if decides.stage == "train":
        check_last_checkpoint((place / "last_checkpoint").read_bytes(), outputs)
    for name in outputs:
        if name.endswith("config.json"):
            check_config(name, (place / name).read_bytes())


def _bytes(outputs: Outputs) -> int:
    return sum(output["size"] for output in outputs.values())


def _name(stage: str, fingerprint: str) -> str:
    return f"{stage}-{fingerprint}"


def _named(error: Exception) -> str:
    """Say what failed without the library's own message, which may hold a signed address."""
    if isinstance(error, ImportError):
        return f"{error.name} is not installed: pip install 'tunemake[store]'"
    told = getattr(error, "strerror", None) or (str(error) if type(error) is TimeoutError else None)
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
