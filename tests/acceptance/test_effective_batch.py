"""An effective batch: batch_size and accumulation chosen once, kept in tunemake.lock, and kept to elsewhere."""

import json
import os
import shutil
import subprocess

import pytest

from conftest import TinyProject
from tunemake.engines import xtuner

pytestmark = pytest.mark.train
LOCK = "tunemake.lock"


@pytest.fixture(scope="module")
def parted(tmp_path_factory, tiny_llama):
    """Give a built project that declares an effective batch, what building its config printed, and if that locked."""
    made = TinyProject(tmp_path_factory.mktemp("parted") / "p")
    shutil.copytree(tiny_llama, made.root / "models" / "tiny")
    made.edit("batch_size = 2", "effective_batch = 12")
    part, locked = made.built("config"), (made.root / LOCK).exists()
    made.built()
    return made.root, part, locked


@pytest.fixture
def whole(tmp_path, parted):
    """A copy of it."""
    subprocess.run(["cp", "-a", str(parted[0]), str(tmp_path / "p")], check=True)
    made = TinyProject.__new__(TinyProject)
    made.root = tmp_path / "p"
    return made


@pytest.fixture
def unbuilt(project):
    project.edit("batch_size = 2", "effective_batch = 12")
    return project


def chosen(project):
    return json.loads((project.root / LOCK).read_text())["chosen"]["default"]


def sizes(project, name=xtuner.CONFIG):
    text = (project.root / "build/default/config" / name).read_text()
    lines = dict(line.split("  #")[0].split(" = ") for line in text.splitlines() if " = " in line[:40])
    return int(lines["batch_size"]), int(lines["accumulative_counts"]), lines


def test_it_is_parted_trained_locked_and_a_second_build_does_nothing(whole, parted):
    _, done, locked_by_a_part = parted
    assert "batch_size 6 × accumulation 2 (effective 12): about" in done.told()
    assert not locked_by_a_part
    told = chosen(whole)
    assert (told["train.batch_size"], told["train.accumulation"]) == (6, 2)
    assert told["train.activation_checkpointing"] is False
    assert sizes(whole)[:2] == sizes(whole, xtuner.DECIDES)[:2] == (6, 2)
    config = (whole.root / "build/default/config/train.py").read_text()
    assert f"# Chosen once, and kept in tunemake.lock: {told['why']}" in config
    assert "Chosen" not in (whole.root / "build/default/config" / xtuner.DECIDES).read_text()
    assert whole.record("default/train")["facts"]["iterations"] == 4 * 2
    locked = (whole.root / LOCK).read_bytes()
    again = whole.built()
    assert again.ran == []
    assert (whole.root / LOCK).read_bytes() == locked
    card = (whole.root / "build/default/report/README.md").read_text()
    assert all(f"{name} | {number} |" in card for name, number in (("effective\\_batch", 12), ("batch\\_size", 6)))


def test_what_another_machine_chose_is_kept_to(whole):
    told = json.loads((whole.root / LOCK).read_text())
    other = {
        "train.batch_size": 3,
        "train.accumulation": 4,
        "train.activation_checkpointing": True,
        "why": "a small\nGPU",
    }
    told["chosen"]["default"] |= other
    (whole.root / LOCK).write_text(json.dumps(told))
    done = whole.built()
    assert done.ran[:2] == ["config", "train"]
    assert "tunemake.lock has" in done.told()
    assert sizes(whole)[:2] == (3, 4)
    config = (whole.root / "build/default/config/train.py").read_text()
    assert "use_activation_checkpointing=True" in config
    assert "kept in tunemake.lock: a small GPU\n" in config
    assert whole.built().ran == []
    assert {name: chosen(whole)[name] for name in other} == other


def test_another_effective_batch_is_chosen_anew_and_the_lock_lets_go_of_the_old(whole):
    old = chosen(whole)
    whole.edit("effective_batch = 12", "effective_batch = 5")
    done = whole.built()
    assert done.why("train").startswith("train.effective_batch: 12 → 5")
    assert (chosen(whole)["train.batch_size"], chosen(whole)["for"] == old["for"]) == (5, False)
    whole.edit("effective_batch = 5", "effective_batch = 12")
    assert whole.built().why("train").endswith("(made before)")
    assert chosen(whole) == old


def test_checkpointing_comes_on_where_memory_is_short_and_retrains_nothing(built):
    assert chosen(built)["train.activation_checkpointing"] is False
    built.write("project.toml", (built.root / "project.toml").read_text() + "\n[machine]\nmemory = 0.001\n")
    done = built.built()
    assert done.ran == ["config"]
    assert chosen(built)["train.activation_checkpointing"] is True
    assert "use_activation_checkpointing=True" in (built.root / "build/default/config/train.py").read_text()
    assert built.built().ran == []


def test_several_processes_part_it_among_them(unbuilt):
    unbuilt.write("project.toml", (unbuilt.root / "project.toml").read_text() + "\n[launch]\ngpus = 2\n")
    assert "batch_size 6 × accumulation 1 × 2 devices (effective 12)" in unbuilt.built("config").told()
    assert sizes(unbuilt)[:2] == (6, 1)


def test_for_a_device_that_is_not_here_it_is_told_what_to_say(unbuilt):
    unbuilt.edit("lr = 1e-3", 'lr = 1e-3\nprecision = "bfloat16"')
    done = unbuilt.doit("config", CUDA_VISIBLE_DEVICES="")
    assert done.code != 0
    assert "train.precision: bfloat16 needs a CUDA GPU, and none is here; " in done.told()
    assert "effective_batch" not in done.told()
    unbuilt.write("project.toml", (unbuilt.root / "project.toml").read_text() + "\n[machine]\nmemory = 20\n")
    done = unbuilt.doit("config", CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.told()
    assert sizes(unbuilt)[:2] == (12, 1)  # as a GPU is filled, by tokens
    assert " of 20.0 GB " in done.told()


def test_a_device_that_does_not_tell_its_memory_is_asked_for_it(unbuilt, tmp_path):
    """A script speaks as the driver's tool does where it lists a card and knows nothing more of it."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: NVIDIA H200 (UUID: GPU-1)"\n')
    tool.chmod(0o755)
    unbuilt.edit("lr = 1e-3", 'lr = 1e-3\nprecision = "bfloat16"')
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    for told in (unbuilt.doit("config", PATH=path).told(), unbuilt.run("tunemake", "check", PATH=path).told()):
        assert "so what fits it cannot be told; say machine.memory, in GB" in told
        assert "and none is here" not in told
