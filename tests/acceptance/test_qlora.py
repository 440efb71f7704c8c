"""QLoRA on a CPU, from project.toml to the merged model, onto either base; its bitsandbytes is not XTuner's pin."""

import json
import os

import pytest

from conftest import Run, TinyProject

pytestmark = pytest.mark.train


@pytest.fixture
def in_four_bits(project: TinyProject, bitsandbytes) -> TinyProject:
    path = os.pathsep.join([str(bitsandbytes), os.environ.get("PYTHONPATH", "")])
    project.environment = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    project.edit("steps = 4", 'method = "qlora"\nprecision = "float32"\nsteps = 4')
    project.edit("lr = 1e-3", "lr = 1e-2\nanswers = { every = 2, max_new_tokens = 4 }")
    return project


def told(done: Run) -> str:
    return next(line for line in done.told().splitlines() if "merged onto " in line)


def test_it_trains_on_a_cpu_and_merges_onto_either_base(in_four_bits):
    project = in_four_bits
    first = project.built()
    assert "merged onto the base's own weights; the adapter was trained against their 4 bits" in told(first)
    lines = (project.root / "build/default/train/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < losses[0]

    project.write("project.toml", (project.root / "project.toml").read_text() + '\n[merge]\nbase = "dequantised"\n')
    second = project.built()
    assert second.ran == ["merge", "evaluate", "report"]
    assert second.why("merge").startswith('merge.base: none → "dequantised"')
    facts = project.record("default/merged")["facts"]["onto"]
    assert (facts["base"], facts["weights"]) == ("dequantised", 14)
    assert 0.07 < facts["distance"] < 0.1
    assert f"14 weights, dequantised from 4 bits, lie {facts['distance']:.2%} of their size off" in told(second)
    card = (project.root / "build/default/report/README.md").read_text()
    assert f"merged onto these weights, dequantised: 14 of them, {facts['distance']:.2%} of their size off" in card

    proof = project.record("default/evaluation")["facts"]["proof"]
    assert proof["deviation"] < proof["tolerance"] < proof["effect"]
    merged, adapter = "build/default/merged", "build/default/adapter"
    proved = project.run("tunemake", "verify", merged, "--base", "models/tiny", "--adapter", adapter)
    assert proved.code == 0, proved.told()
    assert "with models/tiny, dequantised from 4 bits, and build/default/adapter" in proved.out

    project.edit('base = "dequantised"', 'base = "original"')
    third = project.built()
    assert "(made before)" in third.why("merge")
    assert project.built().ran == []


def test_bfloat16_still_wants_a_gpu(in_four_bits):
    in_four_bits.edit('precision = "float32"', 'precision = "bfloat16"')
    done = in_four_bits.doit("train")
    assert done.code == 1
    assert ": train.precision: bfloat16 needs a CUDA GPU, and none is here; " in done.out
