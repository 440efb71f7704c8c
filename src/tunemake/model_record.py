"""tunemake.json: what a merged model was made from, in its own folder, so that a copy can be traced and checked.

The same model made again by the same versions has the same record: it holds no times and no place of a machine.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tunemake import __version__
from tunemake.digests import Digests, sha256_of_file
from tunemake.distributions import installed_version
from tunemake.faults import Fault, InputError
from tunemake.models import ADAPTER, MODEL_RECORD, model_files, parse_source

FORMAT = 1
_LOG = "log.txt"
_LIBRARIES = ("numpy", "peft", "torch", "transformers", "xtuner")
_PRECISIONS = ("float32", "bfloat16", "float16")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_model_record(folder: Path, inputs: Mapping[str, Path], told: Mapping[str, Any], digests: Digests) -> None:
    """Write the record of the merged model in a folder, when all its other files are there.

    inputs, told: the merge stage's inputs and parameters, its prompt_template resolved; beside onto also four_bits, the
    names of the weights that were dequantised. digests: remembered, for
    whoever commits the files.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = [folder / name for name in names if name not in {_LOG, MODEL_RECORD}]
    record = {"format": FORMAT, **_made_of(inputs, told, digests), "versions": _versions()}
    record["files"] = _sums(files, digests)
    digests.save()
    (folder / MODEL_RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _made_of(inputs: Mapping[str, Path], told: Mapping[str, Any], digests: Digests) -> dict[str, Any]:
    base = json.loads((inputs["base"] / "model.json").read_text("utf-8"))
    # A folder's place says nothing elsewhere, and may tell of the machine.
    source = Path(told["base"]).name if parse_source(told["base"]).kind == "folder" else told["base"]
    made_of = {
        "project": told["project"], "prompt_template": told["template"], "template": dict(told["prompt_template"]),
        "dtype": told["dtype"],
        "base": {"source": source, "revision": base["revision"], "sha256": base["sha256"], "files": base["files"]},
        "data": _sums(sorted(inputs["data"].glob("train.json*")), digests),
    }  # fmt: skip
    if "onto" in told:
        made_of["onto"] = {"base": told["onto"], "precision": told["precision"], "weights": told["four_bits"]}
    if "adapter" in inputs:
        made_of["adapter"] = _sums(sorted(inputs["adapter"].glob("adapter_*")), digests)
    return made_of


def _sums(files: Sequence[Path], digests: Digests) -> dict[str, str]:
    return dict(zip((path.name for path in files), digests.of_many(files), strict=True))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "tunemake": __version__}
    return found | {name: version for name in _LIBRARIES if (version := installed_version(name)) is not None}


def read_model_record(folder: Path) -> dict[str, Any]:
    """Read the record of a model's folder; raises InputError where there is none, or none of this version's form."""
    path = folder / MODEL_RECORD
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        step = "name the folder of a merged model" if folder.is_dir() else "check the folder's name"
        raise InputError(Fault(str(folder), f"no {MODEL_RECORD} here", next_step=step)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(Fault(str(path), f"cannot be read: {error}")) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or not _are_files(record.get("files")):
        got = repr(record.get("format") if isinstance(record, dict) else record)[:40]
        expected = f"format {FORMAT}, with the digests of files"
        raise InputError(Fault(str(path), "not a record that this version understands", expected, got))
    return record


def dequantised_of(folder: Path, record: Mapping[str, Any]) -> tuple[frozenset[str], str] | None:
    """Give the weights that a model's record says were dequantised, and the training's precision; None for none.

    Raises InputError where it says it in a form that this version does not know.
    """
    told = record.get("onto")
    if told is None:
        return None
    names, precision = (told.get("weights"), told.get("precision")) if isinstance(told, dict) else (None, None)
    if precision not in _PRECISIONS or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        what, expected = "not a record that this version understands", "in onto the precision, and names of weights"
        raise InputError(Fault(str(folder / MODEL_RECORD), what, expected, repr(told)[:40]))
    return frozenset(names), str(precision)


def model_flaws(folder: Path) -> tuple[int, list[str]]:
    """Read every file of a model's folder; give how many were read, and what is not as its record tells."""
    files: dict[str, str] = read_model_record(folder)["files"]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        told = list(pool.map(lambda name: _flaw(folder, name, files[name]), files))
    # An adapter beside a model is loaded with it, and may lead to another base.
    found = [*model_files(folder), *sorted(folder.glob(f"{ADAPTER}*"))]
    here = [path.name for path in found if path.name not in {*files, _LOG}]
    more = [f"{name} is none of the model's files, and would be loaded with them" for name in here]
    return len(files), [flaw for flaw in told if flaw is not None] + more


def _are_files(files: object) -> bool:
    return isinstance(files, dict) and all(
        name == Path(name).name and isinstance(digest, str) and _SHA256.fullmatch(digest)
        for name, digest in files.items()
    )


def _flaw(folder: Path, name: str, digest: str) -> str | None:
    try:
        return None if sha256_of_file(folder / name) == digest else f"{name} is not as recorded"
    except FileNotFoundError:
        return f"{name} is gone"
    except OSError as error:
        return f"{name}: {error.strerror}"
