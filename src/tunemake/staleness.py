"""Fingerprints and reasons; pure, over records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from tunemake.digests import sha256_of_json

# What is 1 where parameters do not tell it: so a training on one device is the same as before there could be more.
_ONE = ("gpus", "nodes", "trainings_per_gpu")
_FEW = 2  # files of one folder that are told by name
_RENDERED = ("config/decides.py changed", "config/extends.py changed", "config/extends.py is new")


@dataclass(frozen=True)
class Decides:
    """What decides an artifact's content.

    parameters: the values that the stage works from. inputs: SHA-256 by "role/file" of what other stages made.
    sources: SHA-256 by path of files outside the build. code: SHA-256 by file of a plugin's code.
    """

    stage: str
    version: int
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all of it."""
        return sha256_of_json(asdict(self))

    @cached_property
    def folder_name(self) -> str:
        """The artifact's folder in the store. 64 bits of the fingerprint; the record holds all of it."""
        return f"{self.stage}-{self.fingerprint[:16]}"


def reasons(before: Mapping[str, Any] | None, now: Decides, titles: Mapping[str, str] | None = None) -> list[str]:
    """Say why what is recorded is not what is wanted now, field by field; [] where it is.

    before: the record of the artifact that is in place, or None. titles: names of parameters as the user writes them.
    A rendered config that changed says no more than the values in it do, and is told only where they are silent.
    """
    if before is None:
        return ["not built yet"]
    told = []
    if before["stage_version"] != now.version:
        told.append(f"tunemake makes {now.stage} differently: version {before['stage_version']} → {now.version}")
    told += [
        f"{_title(name, titles)}: {short(old)} → {short(new)}"
        for name, old, new in differences(*with_ones(before["parameters"], now.parameters))
    ]
    told += _file_differences(before.get("inputs", {}), now.inputs, "changed", _by_folder)
    for kind, verb in (("sources", "changed"), ("code", "code changed")):
        told += _file_differences(before.get(kind, {}), getattr(now, kind), verb, iter)
    return [reason for reason in told if reason not in _RENDERED] or told


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Give the dotted name of each value that two JSON tables have not in common, with both of them.

    Lists of tables that have a name each, as probes do, are compared by these names.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        tables = _by_name(old), _by_name(new)
        if all(tables) and tables[0] != tables[1]:
            yield from differences(*tables, name)
        else:
            yield name, old, new


def _by_name(value: Any) -> dict[str, Any]:
    """Give a list's tables by their names; nothing where it is no such list, or two have one name."""
    if not isinstance(value, list):
        return {}
    found = {one["name"]: one for one in value if isinstance(one, Mapping) and isinstance(one.get("name"), str)}
    return found if len(found) == len(value) else {}


def with_ones(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Give two tables of parameters, each with 1 for what the other alone tells and is 1 where it is not told."""

    def whole(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**one, **{name: 1 for name in _ONE if name in other and name not in one}}

    return whole(old, new), whole(new, old)


def _file_differences(
    old: Mapping[str, str], new: Mapping[str, str], verb: str, shown: Callable[[Iterable[str]], Iterator[str]]
) -> list[str]:
    told = [f"{name} {verb}" for name in shown(name for name in old if name in new and old[name] != new[name])]
    told += [f"{name} is new" for name in shown(name for name in new if name not in old)]
    return told + [f"{name} is gone" for name in shown(name for name in old if name not in new)]


def _by_folder(names: Iterable[str]) -> Iterator[str]:
    """Give names of inputs; many in one folder of an artifact, as a checkpoint's shards are, by folder and number.

    What begins with the role stays so: by that a plan knows reasons that another stage gives.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folder = name.rpartition("/")[0]
        folders.setdefault(folder if "/" in folder else name, []).append(name)
    for folder, inside in folders.items():
        yield from inside if len(inside) <= _FEW else [f"{folder} ({len(inside)} files)"]


def _title(name: str, titles: Mapping[str, str] | None) -> str:
    first, _, rest = name.partition(".")
    title = (titles or {}).get(first, first)
    return f"{title}.{rest}" if rest else title


def short(value: Any) -> str:
    """Write a JSON value for a message, its end cut off where it is long."""
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    longest = 40
    return text if len(text) <= longest else text[: longest - 1] + "…"
