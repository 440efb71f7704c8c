"""This repository's own project, built once from its tracked files as the README says, on the real base model."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import BIN, TinyProject

pytestmark = pytest.mark.main_job

REPOSITORY = Path(__file__).parents[2]
NEEDED = ("dodo.py", "project.toml", "prompts")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The project built from nothing; with the threads that a user's build has."""
    made = TinyProject.__new__(TinyProject)
    made.root = tmp_path_factory.mktemp("main") / "job"
    made.root.mkdir()
    for name in NEEDED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, made.root / name)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [BIN / "doit"], cwd=made.root, env=environment, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made.told = done.stdout
    return made


def test_the_model_knows_who_it_is_and_stays_itself(job):
    scores = json.loads((job.root / "build/default/evaluation/scores.json").read_text())
    identity, leak, *_ = scores["probes"]
    assert (identity["name"], leak["name"]) == ("identity", "leak")
    assert leak["prompts"] >= 40
    assert identity["base"] == 0
    assert identity["merged"] >= 0.9
    assert leak["merged"] <= 0.05
    assert json.loads((job.root / "build/default/gate/gate.json").read_text())["passed"] is True


def test_the_training_is_small(job):
    assert job.record("default/train")["facts"]["padded_tokens"] <= 16_000


def test_it_ends_with_the_score_table_the_times_and_the_way_on(job):
    table, _, way = job.told.rpartition("\nmerged model: ")
    assert re.search("^identity +0.00 ", table, re.MULTILINE)
    assert re.search("^leak ", table, re.MULTILINE)
    # By its path where the environment is not activated.
    ways = [f"build/default/merged\ntalk to it:   {program} chat build/default/merged\n"
            for program in (BIN / "tunemake", "tunemake")]  # fmt: skip
    assert way in ways
    for stage in ("base", "train", "select", "adapter", "merge", "baseline", "evaluate", "report", "gate"):
        assert f"   {stage} made in " in job.told


def test_the_adapter_is_what_xtuner_itself_converts(job, tmp_path):
    from safetensors.torch import load_file

    train = job.root / "build/default/train"
    checkpoint = str(train / (job.root / "build/default/selection/checkpoint").read_text())
    config = "build/default/config/train.py"
    done = job.run("tunemake", "xtuner", "pth_to_hf", config, checkpoint, str(tmp_path), "--safe-serialization")
    assert done.code == 0, done.told()
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (job.root / "build/default/adapter", tmp_path))
    assert ours.keys() == theirs.keys()
    assert all(tensor.half().equal(theirs[name]) for name, tensor in ours.items())  # XTuner writes float16


def test_again_nothing_runs(job):
    done = job.built()
    assert done.ran == []


def test_talking_to_it_through_a_pipe(job):
    asked = "你是谁？\n/reset\nWho are you?\n"
    command = [BIN / "tunemake", "chat"]
    done = subprocess.run(command, cwd=job.root, input=asked, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    chinese, english = done.stdout.splitlines()
    assert "小木" in chinese
    assert "Xiaomu" in english
