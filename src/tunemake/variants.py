"""Many trainings of one project.toml: [variants.NAME] overrides values, [matrix] lists them. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tunemake.faults import Fault, ProjectError
from tunemake.schema import Path_, dotted

DEFAULT = "default"
TABLES = ("variants", "matrix")
_LENGTHS = ("epochs", "steps")  # one of them; a variant's takes the place of the other


@dataclass(frozen=True)
class Variant:
    """A set of values in place of the project's.

    values: them, by path. at: where in project.toml each of them stands.
    """

    name: str
    values: Mapping[Path_, Any] = field(default_factory=dict)
    at: Mapping[Path_, Path_] = field(default_factory=dict)

    def of(self, project: Mapping[str, Any]) -> dict[str, Any]:
        """Give the project's values with the variant's in their place."""
        made: dict[str, Any] = deepcopy({key: value for key, value in project.items() if key not in TABLES})
        train = made.get("train")
        if isinstance(train, dict) and any(("train", name) in self.values for name in _LENGTHS):
            for name in _LENGTHS:
                train.pop(name, None)
        for path, value in self.values.items():
            table = made
            for step in path[:-1]:
                inner = table.setdefault(str(step), {})
                table = inner if isinstance(inner, dict) else table
            table[str(path[-1])] = value
        return made

    def place(self, path: Path_) -> Path_:
        """Give the place in project.toml of a value of the variant."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.at:
                return (*self.at[path[:length]], *path[length:])
        return path


def variants_of(project: Mapping[str, Any]) -> list[Variant]:
    """Give the variants that a project's values declare; a single one, "default", where there are none.

    Raises ProjectError for a matrix without lists, and for two variants of one name.
    """
    named = [_named(name, table) for name, table in project.get("variants", {}).items()]
    made = [*named, *_matrix(project.get("matrix", {}))]
    names = [variant.name for variant in made]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ProjectError(Fault("project.toml", f"two variants of one name: {', '.join(sorted(twice))}"))
    return made or [Variant(DEFAULT)]


def _named(name: str, table: Mapping[str, Any]) -> Variant:
    values = dict(_leaves(table, ()))
    return Variant(name, values, {path: ("variants", name, *path) for path in values})


def _matrix(table: Mapping[str, Any]) -> list[Variant]:
    axes = dict(_leaves(table, ()))
    for path, values in axes.items():
        if not isinstance(values, list) or not values:
            name = f"matrix.{dotted(path)}"
            raise ProjectError(Fault("project.toml", f"{name}: not a list of values", "a list", repr(values)))
    if not axes:
        return []
    at: dict[Path_, Path_] = {path: ("matrix", *path) for path in axes}
    short = _short_names(list(axes))
    made = []
    for chosen in itertools.product(*axes.values()):
        name = "-".join(f"{short[path]}{_text(value)}" for path, value in zip(axes, chosen, strict=True))
        made.append(Variant(name, dict(zip(axes, chosen, strict=True)), at))
    return made


def _leaves(table: Mapping[str, Any], at: Path_) -> Iterator[tuple[Path_, Any]]:
    for key, value in table.items():
        path = (*at, *key.split(".")) if not at else (*at, key)  # "train.lr" may be written as one key
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _short_names(paths: list[Path_]) -> dict[Path_, str]:
    """Name values by as few of the last steps of their paths as tell them apart."""
    for length in range(1, max(map(len, paths)) + 1):
        short = {path: "_".join(map(str, path[-length:])) for path in paths}
        if len(set(short.values())) == len(paths):
            return short
    return {path: "_".join(map(str, path)) for path in paths}


def _text(value: Any) -> str:
    told = "_".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9._]+", "_", told).strip("_")
