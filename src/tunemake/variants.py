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
OVERRIDES = ("project", "model", "datasets", "data", "train", "merge", "evaluate", "export", "launch")
_RESERVED = ("base", "log.jsonl")  # names that build/ has already
_LONGEST = 24  # letters of a value in a variant's name
_LENGTHS = ("epochs", "steps")  # one of them; a variant's takes the place of the other
WHOLE, PARTS = "effective_batch", ("batch_size", "accumulation")  # and so with these: it, or the two


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
        if isinstance(train, dict):
            for own, others in ((_LENGTHS, _LENGTHS), ((WHOLE,), PARTS), (PARTS, (WHOLE,))):
                for name in others if any(("train", name) in self.values for name in own) else ():
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
    if taken := set(names).intersection(_RESERVED):
        raise ProjectError(Fault("project.toml", f"variants.{min(taken)}: the name is taken in build/"))
    return made or [Variant(DEFAULT)]


def _named(name: str, table: Mapping[str, Any]) -> Variant:
    leaves = list(_leaves(table))
    at: dict[Path_, Path_] = {path: ("variants", name, *keys) for path, keys, _ in leaves}
    return Variant(name, {path: value for path, _, value in leaves}, at)


def _matrix(table: Mapping[str, Any]) -> list[Variant]:
    axes: dict[Path_, list[Any]] = {}
    at: dict[Path_, Path_] = {}
    for path, keys, values in _leaves(table):
        name = f"matrix.{dotted(path)}"
        if not isinstance(values, list) or not values:
            raise ProjectError(Fault("project.toml", f"{name}: not a list of values", "a list", repr(values)))
        if path[0] not in OVERRIDES:
            raise ProjectError(Fault("project.toml", f"{name}: no variant can have another", ", ".join(OVERRIDES)))
        if path in axes:
            raise ProjectError(Fault("project.toml", f"{name}: given twice"))
        axes[path], at[path] = values, ("matrix", *keys)
    if not axes:
        return []
    short = _short_names(list(axes))
    texts = {path: _texts(values) for path, values in axes.items()}
    made = []
    for chosen in itertools.product(*(range(len(values)) for values in axes.values())):
        picked = dict(zip(axes, chosen, strict=True))
        name = "-".join(f"{short[path]}{texts[path][number]}" for path, number in picked.items())
        made.append(Variant(name, {path: axes[path][number] for path, number in picked.items()}, at))
    return made


def _leaves(table: Mapping[str, Any], at: Path_ = (), keys: Path_ = ()) -> Iterator[tuple[Path_, Path_, Any]]:
    """Give each value with its path, and with the keys that it is written under; an empty table holds none."""
    for key, value in table.items():
        path = (*at, *(key.split(".") if not at else (key,)))  # "train.lr" may be written as one key
        if isinstance(value, Mapping):
            yield from _leaves(value, path, (*keys, key))
        else:
            yield path, (*keys, key), value


def _short_names(paths: list[Path_]) -> dict[Path_, str]:
    """Name values by as few of the last steps of their paths as tell them apart."""
    for length in range(1, max(map(len, paths)) + 1):
        short = {path: "_".join(map(str, path[-length:])) for path in paths}
        if len(set(short.values())) == len(paths):
            return short
    return {path: "_".join(map(str, path)) for path in paths}


def _texts(values: list[Any]) -> list[str]:
    """Write values for names; as their numbers where letters do not tell them apart."""
    told = ["_".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]
    texts = [re.sub(r"[^A-Za-z0-9._]+", "_", text).strip("_") for text in told]
    plain = len(set(texts)) == len(texts) and all(0 < len(text) <= _LONGEST for text in texts)
    return texts if plain else [str(number) for number in range(1, len(values) + 1)]
