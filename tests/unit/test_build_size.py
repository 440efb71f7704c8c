"""Sizes told beforehand, held against those that PEFT and safetensors give."""

import pytest

from light_model import INNER, LAYERS, WIDTH, write_light_model
from tunemake.build_size import build_size, exported_bytes
from tunemake.tensors import read_model

VALUES = LAYERS * 8 * (4 * 2 * WIDTH + 3 * (WIDTH + INNER))  # rank 8 on seven matrices a layer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("light")
    write_light_model(place)
    return place


def train(method="lora", targets="all-linear", keep=2):
    return {"method": method, "lora": {"r": 8, "targets": targets}, "checkpoints": {"keep": keep}}


def test_an_adapter_and_its_optimizer(folder):
    made = build_size(folder, train(), {"dtype": "base"}, iterations=100, every=10)
    weights = (folder / "model.safetensors").stat().st_size
    assert made["checkpoints"] == 3 * 3 * 4 * VALUES  # two are kept while the third is written
    assert made["adapter"] == 4 * VALUES
    assert weights - 4000 < made["merged model"] <= weights


@pytest.mark.parametrize("targets", [["q_proj"], r".*\.q_proj"])
def test_chosen_layers(folder, targets):
    made = build_size(folder, train(targets=targets), {"dtype": "float32"}, iterations=5, every=10)
    assert made["adapter"] == 4 * LAYERS * 8 * 2 * WIDTH
    assert made["checkpoints"] == 3 * made["adapter"]  # one, at the end


def test_a_full_training_keeps_all_weights_in_float32(folder):
    made = build_size(folder, train("full", keep=1), {"dtype": "float16"}, iterations=5, every=1)
    assert made["checkpoints"] == 2 * 3 * 2 * made["merged model"]
    assert "adapter" not in made


def test_tokens_are_told_where_they_are_counted(folder):
    assert build_size(folder, train(), {"dtype": "base"}, 4, 2, tokens=1000)["tokens"] == 8000
    assert "tokens" not in build_size(folder, train(), {"dtype": "base"}, 4, 2)


def test_an_export_is_told_as_large_as_its_formats(folder):
    tensors = read_model(folder).values()
    values = sum(tensor.count for tensor in tensors)
    assert exported_bytes(tensors, ["gguf-q8_0", "safetensors-fp16"]) == int(values * 34 / 32) + 2 * values
    merge = {"dtype": "base"}
    told = build_size(folder, {**train(), "checkpoints": {"keep": 1}}, merge, 4, 2, formats=["gguf-f32"])
    assert told["export"] == 4 * values
    assert "export" not in build_size(folder, {**train(), "checkpoints": {"keep": 1}}, merge, 4, 2)
