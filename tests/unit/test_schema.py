import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tunemake import schema

SCHEMAS = Path(__file__).parents[2] / "schemas"


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("*.json")), ids=lambda file: file.name)
def test_every_schema_is_valid_and_describes_each_property(file):
    shape = json.loads(file.read_text())
    Draft202012Validator.check_schema(shape)
    assert shape["$schema"].endswith("2020-12/schema")
    assert not list(_undescribed(schema.load_schema(file.name)))


def _undescribed(shape, name=""):
    for key, entry in shape.get("properties", {}).items():
        if "properties" not in entry and "items" not in entry and "description" not in entry:
            yield f"{name}.{key}"
        yield from _undescribed(entry, f"{name}.{key}")
        yield from _undescribed(entry.get("items", {}), f"{name}.{key}[]")


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("*.json")), ids=lambda file: file.name)
def test_every_default_is_what_its_own_schema_allows(file):
    for entry in _entries(schema.load_schema(file.name)):
        if "default" in entry:
            filled = schema.with_defaults(entry["default"], entry)
            assert Draft202012Validator(entry).is_valid(filled), entry


def _entries(shape):
    for entry in shape.get("properties", {}).values():
        yield entry
        yield from _entries(entry)
        yield from _entries(entry.get("items", {}))


def test_defaults_fill_tables_that_are_not_there():
    shape = {"properties": {"a": {"default": {}, "properties": {"b": {"default": 3}}}, "c": {}}}
    assert schema.with_defaults({}, shape) == {"a": {"b": 3}}
    assert schema.with_defaults({"a": {"b": 1}, "d": 2}, shape) == {"a": {"b": 1}, "d": 2}


def test_values_of_one_class_are_set_to_their_defaults():
    shape = {
        "properties": {
            "lr": {"default": 9},
            "workers": {"x-decides": "run", "default": 0},
            "lora": {"properties": {"r": {}, "log": {"x-decides": "run"}}},
            "answers": {"x-decides": "run", "default": {}, "properties": {"every": {"default": 1}}},
        }
    }
    value = {"lr": 1, "workers": 2, "lora": {"r": 8, "log": 1}, "answers": {"every": 5}}
    wanted = {"lr": 1, "workers": 0, "lora": {"r": 8}, "answers": {"every": 1}}
    assert schema.reset("run", value, shape) == wanted


def test_faults_say_what_was_expected_and_what_was_there():
    shape = {
        "type": "object", "additionalProperties": False, "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "a name"}, "size": {"type": "integer", "minimum": 1},
            "kind": {"enum": ["a", "b"]},
        },
    }  # fmt: skip
    told = [str(fault) for _, fault in schema.schema_faults({"size": 0, "kind": "c", "nam": 1}, shape, "f")]
    assert told == [
        "f: name: missing; expected a name",
        'f: kind: not allowed; expected one of "a", "b", got "c"',
        'f: nam: unknown key; did you mean "name"?',
        "f: size: out of range; expected at least 1, got 0",
    ]


def test_a_schema_that_is_none_is_told():
    assert schema.invalid_schema({"type": "object"}) is None
    assert "type" in (schema.invalid_schema({"type": "text"}) or "")


def test_a_value_that_may_hold_a_secret_is_not_told():
    shape = schema.load_schema("project.schema.json")["properties"]["store"]
    (found,) = schema.schema_faults({"url": "s3://me:word-of-mine@bucket/x"}, shape, "project.toml")
    assert "url: not allowed; expected a URL such as s3://bucket/prefix without user" in str(found[1])
    assert "word-of-mine" not in str(found[1])
