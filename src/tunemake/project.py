"""project.toml to a frozen Project; the only reader of TOML and of the environment."""

from __future__ import annotations

import copy
import hashlib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tunemake import schema, shelves
from tunemake.faults import Fault, ProjectError

FILE = "project.toml"
SCHEMA = "project.schema.json"
_DECLARED = ("project", "model", "data", "train")


@dataclass(frozen=True)
class Dataset:
    """A dataset as declared: the generator's name, its parameters, and what becomes of bad rows ("error", "skip")."""

    name: str
    generator: str
    parameters: Mapping[str, Any]
    on_bad: str


@dataclass(frozen=True)
class Project:
    """What project.toml declares, checked and with every default filled in.

    root: the project's folder. text: the file as read. The tables hold JSON values only, named as in the file.
    declared: names of the values of project, model, data and train that the file gives, such as train.lora.r.
    """

    root: Path
    text: str
    name: str
    seed: int
    plugins: tuple[str, ...]
    model: Mapping[str, Any]
    datasets: tuple[Dataset, ...]
    data: Mapping[str, Any]
    train: Mapping[str, Any]
    merge: Mapping[str, Any]
    evaluate: Mapping[str, Any] | None
    declared: frozenset[str] = frozenset()

    @cached_property
    def _places(self) -> Mapping[schema.Path_, tuple[int, int]]:
        from tunemake.toml_places import places

        return places(self.text)

    def with_values(self, values: Mapping[str, Any]) -> Project:
        """Give the project with values, by names as train.lr, in place of the defaults of what it does not declare."""
        tables = {name: copy.deepcopy(dict(getattr(self, name))) for name in ("model", "data", "train")}
        length = {"train.epochs", "train.steps"}
        silenced = length if length & self.declared else set()
        for name, value in values.items():
            if name not in self.declared | silenced:
                *path, last = name.split(".")
                table: Any = tables
                for step in path:
                    table = table[step]
                table[last] = value
        return replace(self, model=tables["model"], data=tables["data"], train=tables["train"])

    def located(self, fault: Fault) -> Fault:
        """Give a fault that a stage tells of a value, such as train.lr, with its place in project.toml."""
        path = tuple(fault.where.split("."))
        if path not in self._places:
            return fault
        line, column = self._places[path]
        return replace(fault, where=FILE, what=f"{fault.where}: {fault.what}", line=line, column=column)

    def placed(self, found: Iterable[tuple[schema.Path_, Fault]]) -> list[Fault]:
        """Give faults with the line and column of the values that they are at."""
        return _placed(found, self._places)


def load_project(root: Path) -> Project:
    """Read and check ROOT/project.toml.

    Raises ProjectError with every fault of the file, each with line and column.
    """
    text = _read(root / FILE)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(_syntax_fault(text, error)) from None
    if not _checked_before(root, text):
        _check(text, values)
        _remember_check(root, text)
    declared = {table: values[table] for table in _DECLARED if table in values}
    return _project(root, text, schema.with_defaults(values, schema.load_schema(SCHEMA)), frozenset(_names(declared)))


def machine_environment() -> dict[str, str]:
    """Give the environment for a stage's process."""
    return dict(os.environ)


def _names(values: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _project(root: Path, text: str, values: Mapping[str, Any], declared: frozenset[str]) -> Project:
    datasets = tuple(
        Dataset(name, table["generator"], table["parameters"], table["on_bad"])
        for name, table in values["datasets"].items()
    )
    return Project(
        root=root, text=text, name=values["project"]["name"], seed=values["project"]["seed"],
        plugins=tuple(values["plugins"]), model=values["model"], datasets=datasets, data=values["data"],
        train=values["train"], merge=values["merge"], evaluate=values.get("evaluate"),
        declared=declared,
    )  # fmt: skip


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # some editors begin a file with a byte-order mark
    except FileNotFoundError:
        fault = Fault(str(path.name), "not found", expected="a project file in this folder", got=str(path.parent))
    except UnicodeDecodeError as error:
        fault = Fault(str(path.name), f"not UTF-8 at byte {error.start}", next_step="save the file as UTF-8")
    except OSError as error:
        fault = Fault(str(path.name), f"cannot be read: {error.strerror}")
    raise ProjectError(fault)


def _syntax_fault(text: str, error: tomllib.TOMLDecodeError) -> Fault:
    message, _, place = str(error).rpartition(" (at ")
    line, column = len(text.splitlines()) or 1, 1
    if place.startswith("line "):
        numbers = [int(part.split()[1].rstrip(")")) for part in place.split(", ")]
        line, column = numbers[0], numbers[1]
    return Fault(FILE, f"not valid TOML: {message or error}", line=line, column=column)


def _check(text: str, values: Mapping[str, Any]) -> None:
    from tunemake.toml_places import places

    found = schema.schema_faults(values, schema.load_schema(SCHEMA), FILE)
    if not found:
        return
    raise ProjectError(sorted(_placed(found, places(text)), key=lambda fault: (fault.line or 0, fault.column or 0)))


def _placed(found: Iterable[tuple[schema.Path_, Fault]], where: Mapping[schema.Path_, tuple[int, int]]) -> list[Fault]:
    faults = []
    for path, fault in found:
        line, column = _nearest(where, path)
        faults.append(replace(fault, line=line, column=column))
    return faults


def _nearest(where: Mapping[schema.Path_, tuple[int, int]], path: schema.Path_) -> tuple[int, int]:
    while path and path not in where:
        path = path[:-1]
    return where.get(path, (1, 1))


def _check_mark(root: Path, text: str) -> Path:
    # Checked once for each content of file and schema: an up-to-date build then never imports jsonschema.
    content = text.encode() + shelves.find("schemas", SCHEMA).read_bytes()
    return root / "build" / ".cache" / "checked" / hashlib.sha256(content).hexdigest()


def _checked_before(root: Path, text: str) -> bool:
    return _check_mark(root, text).exists()


def _remember_check(root: Path, text: str) -> None:
    mark = _check_mark(root, text)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
