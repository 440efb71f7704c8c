"""JSON Schema (2020-12) to faults; the only importer of jsonschema.

Annotations of our own: `x-message` says what is wrong in words where a schema rule alone would not; `x-decides` says
what a value decides: "weights" (default), "run" (only how training runs) or "later" (a later stage); `x-elsewhere`
lists what other tools call a key, for "did you mean"; `x-secret` a value that may hold one, which is never told.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import date, time
from functools import cache
from pathlib import Path
from typing import Any

from tunemake import shelves
from tunemake.faults import Fault, did_you_mean

Path_ = tuple[str | int, ...]
_TYPES = {
    "string": "a string", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a table of keys and values", "null": "null",
}  # fmt: skip


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Read a schema that ships, by file name."""
    schema: dict[str, Any] = json.loads(shelves.find("schemas", name).read_text("utf-8"))
    whole: dict[str, Any] = _resolved(schema, schema.pop("$defs", {}))
    return whole


def _resolved(part: Any, shared: Mapping[str, Any]) -> Any:
    """Put the parts that stand in $defs where a $ref names them; editors do the same."""
    if isinstance(part, list):
        return [_resolved(item, shared) for item in part]
    if not isinstance(part, Mapping):
        return part
    name = str(part.get("$ref", "")).removeprefix("#/$defs/")
    whole = {**shared[name], **part} if name else part
    return {key: _resolved(item, shared) for key, item in whole.items() if key != "$ref"}


def with_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    """Give the value with every missing key filled that the schema has a default for; tables always exist."""
    if isinstance(value, list) and "properties" in schema.get("items", {}):
        return [with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, Mapping):
        # JSON Schema takes 4.0 for a whole number; what counts with it does not.
        kinds = schema.get("type", ())
        whole = "integer" in ([kinds] if isinstance(kinds, str) else kinds) and "number" not in kinds
        whole = whole and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value
    known: Mapping[str, Any] = schema.get("properties", {})
    others = schema.get("additionalProperties")
    filled = {}
    for key, entry in known.items():
        if key in value:
            filled[key] = with_defaults(value[key], entry)
        elif "default" in entry:
            filled[key] = with_defaults(entry["default"], entry)
    for key in value:
        if key not in known:
            filled[key] = with_defaults(value[key], others) if isinstance(others, Mapping) else value[key]
    return filled


def reset(decide: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give a table with every value whose `x-decides` is `decide` set to its default, or left out if it has none."""
    kept: dict[str, Any] = {}
    for key, item in value.items():
        entry = schema.get("properties", {}).get(key, {})
        if decided(entry) == decide:
            kept |= with_defaults({}, {"properties": {key: entry}})
        else:
            kept[key] = reset(decide, item, entry) if isinstance(item, Mapping) else item
    return kept


def parted(decide: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part a table's values into those whose `x-decides` is another, and those where it is `decide`."""
    known = schema.get("properties", {})
    chosen = {key: item for key, item in value.items() if decided(known.get(key, {})) == decide}
    return {key: item for key, item in value.items() if key not in chosen}, chosen


def decided(entry: Mapping[str, Any], above: str = "weights") -> str:
    """Say what a value decides: "weights", "run" or "later"; what it does not say, the table above it says."""
    return str(entry.get("x-decides", above))


def value_classes(shape: Mapping[str, Any], at: str = "", above: str = "weights") -> dict[str, str]:
    """Say of each value that a table's schema knows what it decides, by names as in options: lora.r, probe[].name."""
    found: dict[str, str] = {}
    for key, entry in shape.get("properties", {}).items():
        name, own = f"{at}{key}", decided(entry, decided(shape, above))
        found[name] = own
        for part, mark in ((entry, "."), (entry.get("items"), "[]."), (entry.get("additionalProperties"), ".NAME.")):
            if isinstance(part, Mapping):
                found |= value_classes(part, f"{name}{mark}", own)
    return found


def schema_faults(value: Any, schema: Mapping[str, Any], where: str, at: Path_ = ()) -> list[tuple[Path_, Fault]]:
    """Check a value; give every fault with the path of keys and indices to the place it is at.

    at: the path of the value itself inside the file; names and paths of the faults begin with it.
    """
    from jsonschema import Draft202012Validator, FormatChecker

    found = [(path, Fault(where, f"{dotted(path)}: {told}")) for path, told in _not_json_at(value, at)]
    for error in Draft202012Validator(schema, format_checker=FormatChecker(["regex"])).iter_errors(value):
        found.extend(_faults_of(error, where, (*at, *error.absolute_path)))
    # Once each: two rules may have the same words for it.
    return sorted(dict.fromkeys(found), key=lambda pair: [str(step) for step in pair[0]])


def invalid_schema(schema: Any) -> str | None:
    """Say what makes this not a JSON Schema of 2020-12, or None if it is one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"{'.'.join(str(step) for step in error.path) or 'schema'}: {error.message}"
    return None


def dotted(path: Path_) -> str:
    """Write a path of keys as in project.toml: train.lora.r, evaluate.prompts[3]."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _faults_of(error: Any, where: str, path: Path_) -> Iterator[tuple[Path_, Fault]]:
    name = dotted(path) or "all of it"
    if "x-message" in error.schema and error.validator in {"not", "anyOf", "oneOf", "pattern", "required"}:
        what, _, expected = error.schema["x-message"].partition("expected ")
        got = None if error.schema.get("x-secret") else _got(error)
        yield path, Fault(where, f"{name}: {what.rstrip('; ') or 'not allowed'}", expected or None, got)
    elif error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = error.schema.get("properties", {})
        for key in error.instance:
            if key not in known:
                yield (*path, key), _unknown(where, (*path, key), known)
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        for key in missing:
            if f"'{key}'" in error.message:
                yield path, Fault(where, f"{dotted((*path, key))}: missing", expected=_expected(error, key))
    else:
        yield path, Fault(where, f"{name}: {_what(error)}", expected=_wanted(error), got=_short(error.instance))


def _not_json_at(value: Any, at: Path_) -> Iterator[tuple[Path_, str]]:
    """Give the places of what TOML can write and JSON cannot, with what to say: nan, inf, dates and times."""
    if isinstance(value, float) and not math.isfinite(value):
        yield at, "not allowed; expected a finite number"
    elif isinstance(value, date | time):
        yield at, "a date or time; expected a text, in quotes"
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from _not_json_at(item, (*at, key))


def _unknown(where: str, path: Path_, known: Mapping[str, Any]) -> Fault:
    elsewhere = [key for key, entry in known.items() if path[-1] in entry.get("x-elsewhere", ())]
    guess = f'did you mean "{elsewhere[0]}"?' if elsewhere else did_you_mean(str(path[-1]), known)
    listing = None if guess else "one of " + ", ".join(sorted(known))
    return Fault(where, f"{dotted(path)}: unknown key", expected=listing, next_step=guess)


def _expected(error: Any, key: str) -> str | None:
    entry = error.schema.get("properties", {}).get(key, {})
    text: str | None = entry.get("description")
    return text


def _got(error: Any) -> str | None:
    return _short(error.instance) if error.validator == "pattern" else None


def _what(error: Any) -> str:
    if error.validator == "type":
        return "wrong type"
    told = {"minItems": "too few", "minProperties": "too few", "maxItems": "too many", "minLength": "too short"}
    if error.validator in {"enum", "const", "pattern", "format"}:
        return "not allowed"
    return told.get(error.validator, "out of range")


def _wanted(error: Any) -> str:
    rule, value = error.validator, error.validator_value
    if rule == "type":
        names = [value] if isinstance(value, str) else value
        return " or ".join(_TYPES[name] for name in names)
    if rule == "enum":
        return "one of " + ", ".join(json.dumps(item, ensure_ascii=False) for item in value)
    phrases = {
        "minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "more than {}",
        "exclusiveMaximum": "less than {}", "minLength": "at least {} character(s)",
        "minItems": "at least {} item(s)", "minProperties": "at least {} entry", "pattern": "text that matches {}",
        "format": "a {}",
    }  # fmt: skip
    return phrases[rule].format(value) if rule in phrases else str(error.message)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    longest = 60
    return text if len(text) <= longest else text[: longest - 1] + "…"


def read_json(path: Path) -> Any:
    """Read a JSON file, UTF-8."""
    return json.loads(path.read_text("utf-8"))
