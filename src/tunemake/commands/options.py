"""The options that a JSON Schema describes, as rows of a table: name, type, default, description."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_TYPES = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "array": "list",
    "object": "table", "null": "nothing",
}  # fmt: skip
_BOUNDS = {
    "minimum": "at least {}", "exclusiveMinimum": "above {}", "maximum": "at most {}", "exclusiveMaximum": "below {}",
}  # fmt: skip


class Option(NamedTuple):
    """One option. name: dotted, parts[].count for what is in a list; default: as TOML writes it, "" where none."""

    name: str
    type: str
    default: str
    description: str


def options_of(schema: Mapping[str, Any], at: str = "") -> Iterator[Option]:
    """Give the options of a table's schema, those of tables inside it below their own."""
    required = schema.get("required", ())
    for key, entry in schema.get("properties", {}).items():
        name = f"{at}{key}"
        inner = list(_inside(entry, name))
        if not (inner and entry.get("default") == {} and "description" not in entry):
            default = "(required)" if key in required else _default(entry)
            yield Option(name, type_of(entry), default, entry.get("description", ""))
        yield from inner


def _inside(entry: Mapping[str, Any], name: str) -> Iterator[Option]:
    yield from options_of(entry, f"{name}.")
    for part, mark in (("items", "[]."), ("additionalProperties", ".NAME.")):
        if isinstance(entry.get(part), Mapping):
            yield from options_of(entry[part], f"{name}{mark}")


def type_of(entry: Mapping[str, Any]) -> str:
    """Say what values a schema takes, such as "whole number, at least 1"."""
    if "enum" in entry:
        return " or ".join(_toml(value) for value in entry["enum"])
    if "const" in entry:
        return _toml(entry["const"])
    if alternatives := entry.get("oneOf", entry.get("anyOf")):
        return " or ".join(dict.fromkeys(type_of(one) for one in alternatives))
    told = entry.get("type", [])
    names = [_named(name, entry) for name in ([told] if isinstance(told, str) else told)]
    bounds = [phrase.format(entry[rule]) for rule, phrase in _BOUNDS.items() if rule in entry]
    return ", ".join([" or ".join(names) or "any", *bounds])


def _named(name: str, entry: Mapping[str, Any]) -> str:
    inside = entry.get("items") if name == "array" else entry.get("additionalProperties") if name == "object" else None
    of = type_of(inside) if isinstance(inside, Mapping) else "any"
    return _TYPES[name] + ("" if of in {"any", "table"} else f" of {of}")


def _default(entry: Mapping[str, Any]) -> str:
    return _toml(entry["default"]) if "default" in entry else ""


def _toml(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
