import pytest

from tunemake.faults import ProjectError
from tunemake.variants import Variant, variants_of

PROJECT = {"train": {"steps": 4, "lora": {"r": 8}}, "data": {"max_length": 64}}


def test_without_any_there_is_one():
    assert variants_of(PROJECT) == [Variant("default")]
    assert variants_of(PROJECT)[0].of(PROJECT) == PROJECT


def test_a_variants_values_take_the_place_of_the_projects():
    told = {**PROJECT, "variants": {"plain": {}, "r4": {"train": {"lora": {"r": 4}, "lr": 1e-3}}}}
    plain, r4 = variants_of(told)
    assert plain.of(told) == PROJECT
    assert r4.of(told) == {"train": {"steps": 4, "lora": {"r": 4}, "lr": 1e-3}, "data": {"max_length": 64}}
    assert PROJECT["train"]["lora"]["r"] == 8


def test_an_effective_batch_takes_the_place_of_its_parts_and_they_of_it():
    told = {
        "train": {"batch_size": 4, "accumulation": 2, "lr": 1},
        "variants": {"w": {"train": {"effective_batch": 8}}},
    }
    assert variants_of(told)[0].of(told)["train"] == {"effective_batch": 8, "lr": 1}
    told = {"train": {"effective_batch": 8, "lr": 1}, "variants": {"p": {"train": {"batch_size": 2}}}}
    assert variants_of(told)[0].of(told)["train"] == {"batch_size": 2, "lr": 1}


def test_epochs_take_the_place_of_steps():
    told = {**PROJECT, "variants": {"long": {"train": {"epochs": 2}}}}
    assert variants_of(told)[0].of(told)["train"] == {"epochs": 2, "lora": {"r": 8}}


def test_a_matrix_gives_each_combination_by_name():
    told = {**PROJECT, "matrix": {"train.lora.r": [4, 8], "train": {"lr": [1e-3, 2e-4]}}}
    made = variants_of(told)
    assert [variant.name for variant in made] == ["r4-lr0.001", "r4-lr0.0002", "r8-lr0.001", "r8-lr0.0002"]
    assert made[2].of(told)["train"] == {"steps": 4, "lora": {"r": 8}, "lr": 1e-3}


def test_names_grow_until_they_tell_values_apart():
    told = {"matrix": {"train": {"checkpoints": {"every": [1, 2]}, "answers": {"every": [3]}}}}
    assert [v.name for v in variants_of(told)] == [
        "checkpoints_every1-answers_every3",
        "checkpoints_every2-answers_every3",
    ]


def test_a_fault_is_placed_where_the_value_stands():
    told = {**PROJECT, "variants": {"r4": {"train": {"lora": {"r": 4}}}}, "matrix": {"data": {"max_length": [1]}}}
    r4, short = variants_of(told)
    assert r4.place(("train", "lora", "r")) == ("variants", "r4", "train", "lora", "r")
    assert r4.place(("train", "steps")) == ("train", "steps")
    assert short.place(("data", "max_length")) == ("matrix", "data", "max_length")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"matrix": {"train": {"lr": 3}}}, r"matrix\.train\.lr: not a list of values; expected a list, got 3"),
        ({"matrix": {"train": {"lr": []}}}, r"matrix\.train\.lr: not a list of values"),
        ({"matrix": {"train": {"lr": [1]}}, "variants": {"lr1": {}}}, "two variants of one name: lr1"),
    ],
)
def test_what_is_wrong_is_told(tables, message):
    with pytest.raises(ProjectError, match=message):
        variants_of(tables)
