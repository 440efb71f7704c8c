import json
import os
import stat

import pytest

from tunemake.automatic import resolved
from tunemake.faults import InputError
from tunemake.lock import FILE
from tunemake.machine import best_precision
from tunemake.project import load_variants

PROJECT = """[project]
name = "p"
[model]
source = "models/tiny"
[datasets.who]
generator = "self_cognition"
parameters = { name = "P", author = "a test" }
[train]
steps = 1
[variants.plain]
train.precision = "float32"
[variants.auto]
train.precision = "auto"
"""
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def variants(tmp_path):
    (tmp_path / "project.toml").write_text(PROJECT)
    return load_variants(tmp_path)


def write_lock(root, chosen):
    (root / FILE).write_text(json.dumps({"format": 1, "stages": {}, "chosen": chosen}))


def test_without_a_gpu_it_is_float32_and_what_is_declared_stays(variants):
    made = {project.variant.name: project for project in resolved(variants, NO_GPU)}
    assert {project.train["precision"] for project in made.values()} == {"float32"}
    assert (made["plain"].chosen, made["auto"].chosen) == ({}, {"train.precision": "float32"})


def test_what_was_chosen_before_holds_on_any_machine(variants, tmp_path):
    write_lock(tmp_path, {"auto": {"train.precision": "bfloat16"}})
    made = {project.variant.name: project.train["precision"] for project in resolved(variants, NO_GPU)}
    assert made == {"plain": "float32", "auto": "bfloat16"}


@pytest.mark.parametrize("chosen", [[], {"auto": "bfloat16"}, {"auto": {"train.precision": "int8"}}])
def test_a_damaged_choice_is_told(variants, tmp_path, chosen):
    write_lock(tmp_path, chosen)
    with pytest.raises(InputError, match=r"tunemake\.lock"):
        resolved(variants, NO_GPU)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [("9.0", "bfloat16"), ("7.5", "float16"), ("9.0\n7.5", "float16"), ("8.0\n9.0", "bfloat16")],
)
def test_the_driver_s_tool_tells_what_gpus_can(tmp_path, monkeypatch, answers, expected):
    """The tool itself is not here: a script speaks as it does, `nvidia-smi -L` and `--query-gpu`, of driver 580."""
    lines = answers.split("\n")
    listed = "\n".join(f"GPU {number}: NVIDIA (UUID: GPU-{number})" for number in range(len(lines)))
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then cat <<E\n{listed}\nE\nelse cat <<E\n{answers}\nE\nfi\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert best_precision({}) == expected


@pytest.mark.gpu
def test_torch_agrees():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    assert best_precision(os.environ) == ("bfloat16" if torch.cuda.is_bf16_supported() else "float16")
