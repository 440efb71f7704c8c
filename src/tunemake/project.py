"""project.toml to a frozen Project; the only reader of TOML and of the environment."""

from __future__ import annotations

import copy
import hashlib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tunemake import schema, shelves
from tunemake.digests import replace_text
from tunemake.faults import Fault, ProjectError
from tunemake.launch_fit import launch_faults
from tunemake.variants import DEFAULT, PARTS, TABLES, Variant, variants_of

FILE = "project.toml"
SCHEMA = "project.schema.json"
_WHOLE = Variant(DEFAULT)
# What tomllib says of common slips, in other words.
_IN_WORDS = {
    "Cannot overwrite a value": "a key that is given twice",
    "Illegal character '\\n'": "a text without a closing quote",
    "Unclosed array": "a list without a closing bracket",
}
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
    variant: which of the project's variants it is. chosen: values that took the place of "auto", by such names.
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
    export: Mapping[str, Any] | None = None
    launch: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    store: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    declared: frozenset[str] = frozenset()
    chosen: Mapping[str, str] = field(default_factory=dict)
    variant: Variant = _WHOLE

    @cached_property
    def _places(self) -> Mapping[schema.Path_, tuple[int, int]]:
        from tunemake.toml_places import places

        return places(self.text)

    def with_values(self, values: Mapping[str, Any]) -> Project:
        """Give the project with values, by names as train.lr, in place of the defaults of what it does not declare."""
        tables = {name: copy.deepcopy(dict(getattr(self, name))) for name in ("model", "data", "train")}
        length, parts = {"train.epochs", "train.steps"}, {f"train.{name}" for name in PARTS}
        silenced = length if length & self.declared else set()
        silenced |= parts if "train.effective_batch" in self.declared else set()
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
        path = self.variant.place(tuple(fault.where.split(".")))
        if path not in self._places:
            return fault
        line, column = self._places[path]
        return replace(fault, where=FILE, what=f"{fault.where}: {fault.what}", line=line, column=column)

    def placed(self, found: Iterable[tuple[schema.Path_, Fault]]) -> list[Fault]:
        """Give faults with the line and column of the values that they are at."""
        return _placed(((self.variant.place(path), fault) for path, fault in found), self._places)


def load_project(root: Path) -> Project:
    """Read and check ROOT/project.toml; give its first variant. Raises ProjectError as load_variants does."""
    return load_variants(root)[0]


def load_variants(root: Path) -> list[Project]:
    """Read and check ROOT/project.toml; give it once for each of its variants, which is one where it declares none.

    Raises ProjectError with every fault of the file, each with line and column.
    """
    text = _read(root / FILE)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(_syntax_fault(text, error)) from None
    fresh = _checked_before(root, text)
    if not fresh:
        _check_variants(text, values)
    made = [(variant, variant.of(values)) for variant in variants_of(values)]
    if not fresh:
        _check(text, made)
        _remember_check(root, text)
    return [_project(root, text, told, variant) for variant, told in made]


def machine_environment() -> dict[str, str]:
    """Give the environment for a stage's process."""
    return dict(os.environ)


def _names(values: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _project(root: Path, text: str, told: Mapping[str, Any], variant: Variant) -> Project:
    values = schema.with_defaults(told, schema.load_schema(SCHEMA))
    if "effective_batch" in values["train"]:  # these two are chosen when the base model is there
        values["train"] = {name: value for name, value in values["train"].items() if name not in PARTS}
    declared = frozenset(_names({table: told[table] for table in _DECLARED if table in told}))
    datasets = tuple(
        Dataset(name, table["generator"], table["parameters"], table["on_bad"])
        for name, table in values["datasets"].items()
    )
    return Project(
        root=root, text=text, name=values["project"]["name"], seed=values["project"]["seed"],
        plugins=tuple(values["plugins"]), model=values["model"], datasets=datasets, data=values["data"],
        train=values["train"], merge=values["merge"], evaluate=values.get("evaluate"), export=values.get("export"),
        launch=values["launch"],
        machine=values["machine"], store=values["store"], card=values["card"], declared=declared, variant=variant,
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
    told = _IN_WORDS.get(message, message or str(error))
    return Fault(FILE, f"not valid TOML: {told}", line=line, column=column)


def _check(text: str, made: Iterable[tuple[Variant, Mapping[str, Any]]]) -> None:
    from tunemake.toml_places import places

    shape = schema.load_schema(SCHEMA)
    found = [
        (variant.place(path), _above(path, fault))
        for variant, values in made
        for path, fault in [*schema.schema_faults(values, shape, FILE), *_with_nul(values)]
        or launch_faults(schema.with_defaults(values, shape)["launch"], FILE)
    ]
    if found:
        faults = dict.fromkeys(_placed(found, places(text)))  # once, though several variants have it
        raise ProjectError(sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0)))


def _with_nul(value: Any, at: schema.Path_ = ()) -> Iterator[tuple[schema.Path_, Fault]]:
    """Tell of texts that hold a NUL character: no path, no command and no prompt can."""
    if isinstance(value, str) and "\0" in value:
        yield at, Fault(FILE, f"{schema.dotted(at)}: not allowed", expected="text without NUL characters")
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from _with_nul(item, (*at, key))


def _above(path: schema.Path_, fault: Fault) -> Fault:
    """Tell of `plugins` behind a table's head, where TOML takes it for one of the table's keys."""
    if path[1:] != ("plugins",):
        return fault
    return replace(fault, expected=None, next_step=f"plugins stands above the first table, not in [{path[0]}]")


def _check_variants(text: str, values: Mapping[str, Any]) -> None:
    """Check the tables that declare variants; what they override is checked with them in place."""
    from tunemake.toml_places import places

    shape = {"properties": {table: schema.load_schema(SCHEMA)["properties"][table] for table in TABLES}}
    if found := schema.schema_faults({key: values[key] for key in TABLES if key in values}, shape, FILE):
        raise ProjectError(_placed(found, places(text)))


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
    with suppress(OSError):  # a full disk, a read-only folder: then it is checked again each time
        replace_text(_check_mark(root, text), "")
