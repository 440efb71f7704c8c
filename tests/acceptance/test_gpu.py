"""Kinds of training that need a CUDA GPU, from project.toml to scores; skipped without one."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.train]


@pytest.fixture(scope="module", autouse=True)
def _gpu():
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", code], check=False).returncode:
        pytest.skip("no CUDA GPU here")


KINDS = {
    "lora, bfloat16": 'precision = "bfloat16"',
    "lora, float16": 'precision = "float16"',
    "qlora": 'method = "qlora"\nprecision = "bfloat16"',
    "qlora, dequantised": 'method = "qlora"\nprecision = "bfloat16"',
    "full, bfloat16": 'method = "full"\nprecision = "bfloat16"',
    "full, float16": 'method = "full"\nprecision = "float16"',
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_training(project, kind):
    project.edit("steps = 4", f"{KINDS[kind]}\nsteps = 8")
    if kind.endswith("dequantised"):
        project.edit("[evaluate]", '[merge]\nbase = "dequantised"\n\n[evaluate]')
    project.built()
    lines = (project.root / "build/default/train/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    merged = json.loads((project.root / "build/default/merged/config.json").read_text())
    assert merged["torch_dtype"] == "bfloat16"  # the base's, whatever it was trained in
    assert "quantization_config" not in merged
    assert (project.root / "build/default/evaluation/scores.json").exists()
    assert project.built().ran == []


def test_qlora_names_the_line_that_is_missing_beside_an_old_bitsandbytes(project, tmp_path):
    """XTuner's pin, as a fresh environment has it: only its metadata is looked at, before anything is imported."""
    old = tmp_path / "site" / "bitsandbytes-0.45.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 0.45.0\n")
    project.edit("steps = 4", 'method = "qlora"\nsteps = 4')
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    done = project.doit("train", PYTHONPATH=path)
    assert done.code == 1
    assert "train.method: qlora needs a current bitsandbytes; expected >=0.48, got 0.45.0; run " in done.out
    assert "-m pip install -U 'bitsandbytes>=0.48'" in done.out
