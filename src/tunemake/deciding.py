"""What decides a stage's content, digested: what other stages made, files outside of the build, code of plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunemake import models
from tunemake.artifacts import read_record
from tunemake.digests import Digests
from tunemake.engines import xtuner
from tunemake.faults import Fault, InputError
from tunemake.glance import look_at
from tunemake.plugins import Plugins
from tunemake.stage import Need, Stage
from tunemake.staleness import Decides

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Taken:
    """Where the content lies that a fingerprint was taken of.

    inputs: by role, the artifact's folder in the store, which a link may leave at any time. files: those that are read,
    there and outside of the build, each with its size, time of change and inode, and its digest.
    """

    inputs: Mapping[str, Path]
    files: Mapping[Path, tuple[Stamp, str]]

    def changed(self, digests: Digests) -> list[Path]:
        """Name the files that are no longer as they were; the time may be put back, the content tells."""
        return [path for path, (stamp, digest) in self.files.items()
                if _stamp(path) != stamp or digests.of(path) != digest]  # fmt: skip


class Deciding:
    """Digests what decides the content of a project's stages. stages: by name, all of them."""

    def __init__(self, root: Path, stages: Mapping[str, Stage], plugins: Plugins, digests: Digests) -> None:
        self._root, self._stages, self._plugins, self._digests = root, stages, plugins, digests

    def of(self, stage: Stage, moved: Mapping[str, Path]) -> tuple[Decides, Taken]:
        """Give the digests of what decides a stage's content, and where that lies.

        moved: artifacts, by stage, that other stages' links will lead to by then. InputError where an input is missing.
        """
        inputs: dict[str, str] = {}
        folders = {role: moved.get(need.stage, self._root / self._stages[need.stage].link).resolve()
                   for role, need in stage.needs.items()}  # fmt: skip
        for role, need in stage.needs.items():
            look_at(self._root / self._stages[need.stage].link)
            inputs |= {f"{role}/{name}": digest for name, digest in _taken(stage, need, folders[role]).items()}
        code: dict[str, Path] = {}
        if stage.generator is not None:
            code = self._plugins.code(stage.generator, stage.parameters["parameters"])
        for probe in stage.asked:
            code |= self._plugins.probe_code(probe["kind"])
        sources = self._sources(stage)
        found = {path: digest for folder in folders.values() for path, digest in _linked(folder)}
        found |= {folders[role] / name: digest for role, need in stage.needs.items()
                  for name, digest in _taken(stage, need, folders[role]).items()
                  if (folders[role] / name).is_file()}  # fmt: skip
        stamps = {path: _stamp(path) for path in (*code.values(), *sources.values(), *found)}
        of_sources, of_code = self._digests_of(sources), self._digests_of(code)
        found |= {path: of_sources[name] for name, path in sources.items()}
        found |= {path: of_code[name] for name, path in code.items()}
        decides = Decides(stage.kind, stage.version, stage.parameters, inputs, of_sources, of_code)
        return decides, Taken(folders, {path: (stamp, found[path]) for path, stamp in stamps.items()})

    def _digests_of(self, files: Mapping[str, Path]) -> dict[str, str]:
        return dict(zip(files, self._digests.of_many(files.values()), strict=True))

    def _sources(self, stage: Stage) -> dict[str, Path]:
        files = {name: self._source(name) for name in stage.sources}
        if stage.generator is not None:
            given = self._plugins.inputs(stage.generator, stage.parameters["parameters"])
            files |= {self.portable(path): path for path in given}
        for probe in stage.asked:
            given = self._plugins.probe_inputs(probe["kind"], probe["parameters"])
            files |= {self.portable(path): path for path in given}
        if stage.folder is not None:
            folder = (self._root / stage.folder).resolve()
            read = [*models.model_files(folder), *models.legal_files(folder)]
            files |= {f"{stage.folder}/{path.relative_to(folder)}": path for path in read}
        told = f"not found; {stage.name} reads it"
        missing = [Fault(name, told) for name, path in files.items() if not path.is_file()]
        if missing:
            raise InputError(missing)
        return files

    def _source(self, name: str) -> Path:
        return xtuner.source_path(name, self._root) if xtuner.is_source(name) else self._root / name

    def portable(self, path: Path) -> str:
        """Name a file as seen from the project; one outside of it by its name alone."""
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else path.name


def _taken(stage: Stage, need: Need, folder: Path) -> dict[str, str]:
    """Give the digests of the files that a stage takes from an artifact; of one that decides nothing, none."""
    if not need.files:
        return {}
    record = read_record(folder)
    if record is None:
        raise InputError(Fault(stage.name, f"needs {need.stage}", next_step=f"run doit {need.stage}"))
    return {name: record["outputs"][name]["sha256"] for name in record["outputs"] if need.takes(name)}


def _linked(folder: Path) -> Iterator[tuple[Path, str]]:
    """Give the files of a base model, which may be the user's, with the digests that were recorded of them."""
    outputs = (read_record(folder) or {"outputs": {}})["outputs"]
    for name in (name for name in outputs if name.startswith("model/") and (folder / name).is_file()):
        yield (folder / name).resolve(), outputs[name]["sha256"]


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
