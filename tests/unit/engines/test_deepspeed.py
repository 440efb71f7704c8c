import json

import pytest

from tunemake.engines import deepspeed, xtuner
from tunemake.faults import InputError

NAMES = ("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_xtuners_own_settings_take_the_trainings_type(tmp_path, name, precision):
    source = deepspeed.source(name)
    made = deepspeed.settings(name, precision, xtuner.source_path(source, tmp_path))
    assert xtuner.is_source(source)
    assert made["zero_optimization"]["stage"] == int(name[4])
    assert made["bf16"]["enabled"] is (precision == "bfloat16")
    assert made["fp16"]["enabled"] is (precision == "float16")
    assert ("offload_optimizer" in made["zero_optimization"]) == name.endswith("offload")


def test_a_file_is_the_projects_and_a_table_is_itself(tmp_path):
    (tmp_path / "own.json").write_text('{"fp16": {"enabled": "auto", "initial_scale_power": 8}}')
    assert deepspeed.source("own.json") == "own.json"
    made = deepspeed.settings("own.json", "float16", tmp_path / "own.json")
    assert made["fp16"] == {"enabled": True, "initial_scale_power": 8}
    assert deepspeed.source({"steps_per_print": 5}) is None
    assert deepspeed.settings({"steps_per_print": 5}, "float32", None)["steps_per_print"] == 5


@pytest.mark.parametrize(("text", "told"), [("[1]", "holds no JSON object"), ("{", "is no JSON")])
def test_a_file_that_will_not_do(tmp_path, text, told):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(InputError, match=told):
        deepspeed.settings("own.json", "float32", tmp_path / "own.json")


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_type_that_is_not_the_trainings_is_refused(name):
    with pytest.raises(InputError, match=rf"train.deepspeed: {name}.enabled is not train.precision's"):
        deepspeed.settings(json.loads(f'{{"{name}": {{"enabled": true}}}}'), "float32", None)
