"""tunemake reproduce: the project built once more in a clean folder, each stage compared with the one shown here."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunemake.artifacts import read_record
from tunemake.building import Builder
from tunemake.commands.why import stages_of
from tunemake.engines import xtuner
from tunemake.faults import Fault, InputError
from tunemake.loading import load_builder
from tunemake.models import MODEL_RECORD
from tunemake.progress import Watch
from tunemake.stage import Stage
from tunemake.staleness import differences
from tunemake.withholding import needed

Say = Callable[[str], None]
MEANING = (
    "equal: the same bytes. A checkpoint's file holds times, so its tensors are compared, bit by bit; of metrics all "
    "but times and memory, of a model's record all but versions. Logs and reports are not compared."
)
_MEASURED = ("seconds", "peak_bytes")


@dataclass(frozen=True)
class Compared:
    """A stage, built twice.

    files: how many were compared. absent: names of recorded files that lie in another store, and were not.
    first: the first file that differs, or None; what: how. versions: libraries of another version than then.
    """

    stage: str
    files: int
    absent: list[str]
    first: str | None
    what: str
    versions: list[str]


def reproduce(root: Path, say: Say, names: Sequence[str], into: Path | None, *, machine: bool) -> int:
    """Build stages, by default all, in a clean folder with an empty store; give 1 where one comes out different.

    into: a folder that does not exist or is empty, which is kept; by default one in build/, which is kept only where
    something differs. Raises InputError where what is shown here is not up to date: then there is nothing to compare.
    """
    builder = load_builder(root)
    asked = [stage for name in names for stage in stages_of(list(builder.stages), name)]
    wanted = {one for name in asked for one in needed(builder.stages, name)}
    chosen = [name for name in builder.stages if name in wanted or not names]
    _refuse_stale(builder, chosen)
    folder, kept = _folder(root, into), into is not None
    told: list[Compared] = []
    try:
        try:
            place = _copied(builder, folder)
        except OSError as error:  # a full disk, a file that may not be read
            raise InputError(Fault(str(folder), f"the project cannot be copied there: {_told(error)}")) from error
        copy = load_builder(place, alone=True)
        for name in chosen:
            told.append(_twice(builder, copy, name))
            if not machine:
                say(_line(told[-1]))
            if told[-1].first is not None:
                kept = True
                break
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    return _sum_up(say, told, folder if kept else None, machine=machine)


def _told(error: OSError) -> str:
    """Tell an error of copying: shutil's own collects several."""
    several = error.args[0] if error.strerror is None and error.args else None
    return str(several[0][2]) if isinstance(several, list) and several else str(error)


_OF_THEIR_TIME = {"log.txt", "report.html"}  # they tell when things were done, and how long that took


def _twice(builder: Builder, copy: Builder, name: str) -> Compared:
    with Watch(name) as watch:
        copy.make(name, anew=False, watch=watch)
    link = builder.stages[name].link
    return compared(name, (builder.root / link).resolve(), (copy.root / link).resolve())


def compared(name: str, before: Path, after: Path) -> Compared:
    """Compare two artifacts of a stage, in these folders."""
    records = [read_record(folder) for folder in (before, after)]
    if records[0] is None or records[1] is None:
        raise InputError(Fault(name, "has no record to compare", next_step="run doit"))
    outputs = [{file: told["sha256"] for file, told in record["outputs"].items()} for record in records if record]
    files = sorted({*outputs[0], *outputs[1]} - _OF_THEIR_TIME)
    absent = [file for file in files if file in outputs[0] and not (before / file).exists()]
    first, what = None, ""
    for file in files:
        what = _difference(file, before, after, outputs) if file not in absent else ""
        if what:
            first = file
            break
    environments = [record["environment"] for record in records if record]
    versions = [f"{key} {environments[0].get(key)} → {environments[1].get(key)}"
                for key in sorted({*environments[0], *environments[1]})
                if environments[0].get(key) != environments[1].get(key)]  # fmt: skip
    return Compared(name, len(files) - len(absent), absent, first, what, versions)


def _difference(file: str, before: Path, after: Path, outputs: Sequence[Mapping[str, str]]) -> str:
    """Say how a file differs; "" where it is equal."""
    if file not in outputs[1] or file not in outputs[0]:
        return "was not made again" if file in outputs[0] else "was not there before"
    if outputs[0][file] == outputs[1][file]:
        return ""
    if file.endswith(".pth"):
        return _tensor_difference(before / file, after / file)
    if file == xtuner.METRICS:
        return _line_difference(*(_measured(folder / file) for folder in (before, after)))
    if file == MODEL_RECORD:
        told = [json.loads((folder / file).read_text("utf-8")) | {"versions": None} for folder in (before, after)]
        return next((f"differs at {name}" for name, _, _ in differences(*told)), "")
    return f"{outputs[0][file][:12]} → {outputs[1][file][:12]}"


def _tensor_difference(before: Path, after: Path) -> str:
    from tunemake.checkpoints import load_weights

    old, new = load_weights(before), load_weights(after)
    if old.keys() != new.keys():
        return f"has other tensors: {', '.join(sorted(old.keys() ^ new.keys())[:3])}"
    return next((f"tensor {name} differs" for name in sorted(old) if not _same_bits(old[name], new[name])), "")


def _same_bits(one: Any, other: Any) -> bool:
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return bool(torch.equal(*flat))


def _measured(path: Path) -> list[Any]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in _MEASURED} for line in lines]


def _line_difference(old: list[Any], new: list[Any]) -> str:
    unlike = next((number for number, pair in enumerate(zip(old, new, strict=False), 1) if pair[0] != pair[1]), None)
    if unlike is not None:
        return f"differs at line {unlike}"
    return f"{len(old)} → {len(new)} lines" if len(old) != len(new) else ""


def _refuse_stale(builder: Builder, names: Iterable[str]) -> None:
    faults = []
    for name in names:
        state = builder.state(name)
        if not state.fresh:
            faults.append(Fault(name, f"not up to date: {state.reasons[0]}", next_step="run doit, then reproduce"))
    builder.store.digests.save()
    if faults:
        raise InputError(faults)


def _folder(root: Path, into: Path | None) -> Path:
    if into is None:
        return Path(tempfile.mkdtemp(prefix=".reproduced-", dir=root / "build"))
    folder = (root / into).resolve()
    if folder == root or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise InputError(Fault(f"--into {into}", "not an empty folder", next_step="name one that does not exist yet"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _copied(builder: Builder, folder: Path) -> Path:
    """Copy the project's own files into a folder; give the copy's place, so that ../ leads to links to the same files.

    What earlier builds made and hidden folders stay behind; base models are links.
    """
    root = builder.root
    outside = {Path(os.path.normpath(path)) for path in _declared(builder) if ".." in path.parts}
    outside = {path for path in outside if not path.is_relative_to(root)}
    shared = Path(os.path.commonpath([root, *(path.parent for path in outside)]))
    copy = folder / root.relative_to(shared)
    models = {(root / stage.folder).resolve() for stage in builder.stages.values() if stage.folder is not None}
    left = {root / "build", folder, *models}
    shutil.copytree(
        root, copy, symlinks=True, dirs_exist_ok=True, ignore=lambda at, names: _left(Path(at), names, left)
    )
    for path in (path for path in copy.rglob("*") if path.is_symlink()):
        _lead_home(path, copy, root)
    for path in sorted(outside | {model for model in models if model.is_relative_to(shared)}):
        place = folder / path.relative_to(shared)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    return copy


def _declared(builder: Builder) -> Iterator[Path]:
    """Give the files and folders outside of the build that the project names, as it names them."""
    for project in builder.projects.values():
        yield from (builder.root / file for file in project.plugins)
    for stage in builder.stages.values():
        yield from (builder.root / name for name in stage.sources if not xtuner.is_source(name))
        yield from _read_by(builder, stage)


def _read_by(builder: Builder, stage: Stage) -> Iterator[Path]:
    if stage.folder is not None:
        yield builder.root / stage.folder
    if stage.generator is not None:
        yield from builder.plugins.inputs(stage.generator, stage.parameters["parameters"])


def _left(at: Path, names: Iterable[str], left: set[Path]) -> set[str]:
    """Name what is not copied: hidden folders, caches, environments, and what is no file."""
    found = set()
    for name in names:
        path = at / name
        if path in left:
            found.add(name)
        elif not path.is_symlink():
            spare = name.startswith(".") or name == "__pycache__" or (path / "pyvenv.cfg").exists()
            if (path.is_dir() and spare) or not (path.is_dir() or path.is_file()):
                found.add(name)
    return found


def _lead_home(link: Path, copy: Path, root: Path) -> None:
    """Let a copied link lead to what it leads to in the project, where that was not copied with it."""
    there = root / link.relative_to(copy)
    if not link.exists() or not link.resolve().is_relative_to(copy.resolve()):
        link.unlink()
        link.symlink_to(os.path.realpath(there))


def _line(told: Compared) -> str:
    absent = f"; not compared, for they lie in another store: {', '.join(told.absent)}" if told.absent else ""
    if told.first is None:
        return f"{told.stage}: equal ({told.files} file{'s' * (told.files != 1)}){absent}"
    versions = f"; other versions: {', '.join(told.versions)}" if told.versions else ""
    return f"{told.stage}: differs: {told.first}: {told.what}{versions}{absent}"


def _sum_up(say: Say, told: Sequence[Compared], folder: Path | None, *, machine: bool) -> int:
    equal = all(stage.first is None for stage in told)
    if machine:
        stages = [asdict(stage) for stage in told]
        say(json.dumps({"equal": equal, "stages": stages, "folder": str(folder) if folder else None}, indent=1))
        return 0 if equal else 1
    count = sum(stage.first is None for stage in told)
    say(f"{count} stage{'s' * (count != 1)} came out equal" + ("" if equal else f", {told[-1].stage} did not"))
    if folder is not None:
        say(f"built in {folder}")
    say(MEANING)
    return 0 if equal else 1
