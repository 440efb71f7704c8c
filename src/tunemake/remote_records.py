"""What a record from a shared store must be before anything of it is believed; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from tunemake.artifacts import FORMAT, RECORD
from tunemake.staleness import Decides

Outputs = Mapping[str, Mapping[str, Any]]
_LOG = "log.txt"  # tells of the machine, and nobody reads it from another
_CHECKPOINTS = "iter_*"
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "stage": str, "stage_version": int, "parameters": dict, "inputs": dict, "sources": dict, "code": dict,
    "started": str, "seconds": (int, float), "environment": dict, "runtime": dict, "facts": dict, "outputs": dict,
}  # fmt: skip
# Data only: neither code nor what is unpickled. A file of another kind is made here.
_KINDS = frozenset({
    "", ".json", ".jsonl", ".safetensors", ".gguf", ".parquet", ".csv", ".txt", ".md", ".html", ".svg", ".png", ".toml",
    ".yaml", ".yml", ".jinja", ".model", ".tiktoken",
})  # fmt: skip
_CODE = ("auto_map", "auto_mapping", "custom_pipelines")
_PART = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\:]{1,200}")


class RefusedError(Exception):
    """What a shared store gave is not taken; the text says why."""


def is_left(stage: str, name: str, *, checkpoints: bool) -> bool:
    """Say whether a file of an artifact stays where it was made: logs, and checkpoints unless they are wanted."""
    return name == _LOG or (stage == "train" and not checkpoints and fnmatchcase(name, _CHECKPOINTS))


def checked_outputs(text: bytes, decides: Decides, wanted: Iterable[str]) -> Outputs:
    """Give the outputs that a record tells: size and sha256 by name.

    wanted: the files that must be among them. Raises RefusedError for a record that is not that of what decides.
    """
    record = _read(text)
    told = Decides(
        record["stage"], record["stage_version"], record["parameters"], record["inputs"], record["sources"],
        record["code"],
    )  # fmt: skip
    if record["fingerprint"] != decides.fingerprint or told.fingerprint != decides.fingerprint:
        raise RefusedError("its record is not that of its fingerprint")
    outputs: Outputs = record["outputs"]
    for name, output in outputs.items():
        _check(decides.stage, name, output)
    if missing := [name for name in wanted if name not in outputs]:
        raise RefusedError(f"its record has no {', '.join(missing)}")
    folders = {str(parent) for name in outputs for parent in PurePosixPath(name).parents}
    if twice := sorted(folders & outputs.keys()):
        raise RefusedError(f"{twice[0]!r} is both a file and a folder")
    return outputs


def check_last_checkpoint(text: bytes, outputs: Outputs) -> None:
    """Raise RefusedError unless a training's last_checkpoint names a checkpoint that its record tells.

    What reads it would otherwise be led to a file of another place, and unpickle that.
    """
    name = text.decode("utf-8", "replace").strip()
    told = {output.partition("/")[0] for output in outputs if fnmatchcase(output, _CHECKPOINTS)}
    if name not in told:
        raise RefusedError(f"its last_checkpoint names {name[:80]!r}, which its record does not tell")


def check_config(name: str, text: bytes) -> None:
    """Raise RefusedError for a model's or an adapter's config that names code, here or on a hub, to be run with it."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError(f"{name} is no JSON") from None
    named = [key for key in _CODE if content.get(key)] if isinstance(content, dict) else []
    if named:
        raise RefusedError(f"{name} names code ({named[0]})")


def _read(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("its record is no JSON") from None
    if not isinstance(record, dict) or record.keys() != {"format", "fingerprint", *_FIELDS}:
        raise RefusedError("its record has other fields than this version's")
    if record["format"] != FORMAT or not all(isinstance(record[name], kind) for name, kind in _FIELDS.items()):
        raise RefusedError("its record has values of other kinds than this version's")
    return record


def _check(stage: str, name: str, output: Any) -> None:
    parts = name.split("/")
    # A leading dot marks what is ours beside an artifact's files, and spells the way out of the folder.
    if name == RECORD or any(not _PART.fullmatch(part) or part.startswith(".") for part in parts):
        raise RefusedError(f"its record names a file {name!r}")
    if not is_left(stage, name, checkpoints=False) and PurePosixPath(name).suffix.lower() not in _KINDS:
        raise RefusedError(f"it holds {name!r}, which may be code or a pickle")
    whole = isinstance(output, dict) and output.keys() == {"size", "sha256"}
    size, digest = (output["size"], output["sha256"]) if whole else (None, None)
    sized = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not sized or not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise RefusedError(f"its record tells no size and SHA-256 of {name!r}")
