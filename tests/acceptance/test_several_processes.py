"""Trainings in two processes, plain and under DeepSpeed, over the CPU: what comes out, and what becomes of a kill."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from conftest import kill, processes_of, wait_for
from several_processes import adapter, far, ranks

pytestmark = pytest.mark.train
TWO = "\n[launch]\ngpus = 2\n"


@pytest.fixture
def doubled(project):
    """A project whose training takes two processes, with a learning rate that lets it be seen to learn."""
    project.edit("lr = 1e-3", "lr = 1e-2")
    project.write("project.toml", (project.root / "project.toml").read_text() + TWO)
    return project


def losses(project):
    lines = (project.root / "build/default/train/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_two_processes_come_to_what_one_comes_to_with_twice_the_samples(doubled, tmp_path):
    doubled.environment = {"TMPDIR": str(tmp_path)}
    doubled.built("adapter")
    assert not list(tmp_path.glob("torchelastic_*"))
    assert not (doubled.root / "build/default/train/.launcher").exists()
    apart, weights = losses(doubled), adapter(doubled)
    doubled.edit("gpus = 2", "gpus = 1")
    doubled.edit("batch_size = 2", "batch_size = 4")
    done = doubled.built("adapter")
    assert done.why("train") == "train.batch_size: 2 → 4; launch.gpus: 2 → 1"
    assert apart == pytest.approx(losses(doubled), rel=0.02)  # a mean of two means
    start = {name: weight * 0 for name, weight in weights.items() if "lora_B" in name}
    moved = far({name: weights[name] for name in start}, start)
    assert far(weights, adapter(doubled)) < 0.35 * moved


def under_deepspeed(project, deepspeed, stage):
    """Have a project train under DeepSpeed, long enough to be killed."""
    project.environment = {"PYTHONPATH": os.pathsep.join([str(deepspeed), *sys.path])}
    answers = 'answers = { every = 20, prompts = ["Who are you?"], max_new_tokens = 4 }'
    project.edit("batch_size = 2", f'batch_size = 2\ndeepspeed = "{stage}"\n{answers}')
    project.edit("steps = 4", "steps = 40")
    project.edit("every = 2, keep = 2", "every = 10, keep = 2")


def killed_and_resumed(project):
    """Kill the training when a checkpoint is there; build to the merged model."""
    process = project.start("doit", "merge")
    wait_for(lambda: any((work / "iter_20.pth").is_dir() for work in project.work("train")))
    kill(process)
    wait_for(lambda: not processes_of(project.root / "build"))
    (work,) = project.work("train")
    torn = [path for path in work.glob("iter_*.pth") if len(list(path.glob("*_optim_states.pt"))) < 2]
    done = project.built("merge")
    assert "resuming from iter_" in done.err
    assert done.err.count("a checkpoint cut short") == len(torn)


def test_deepspeed_killed_and_resumed_comes_to_a_merged_model(doubled, deepspeed):
    under_deepspeed(doubled, deepspeed, "zero2")
    killed_and_resumed(doubled)
    assert len(losses(doubled)) == 40
    assert (doubled.root / "build/default/merged/model.safetensors").exists()
    assert not list((doubled.root / "build/default/train").glob("zero_to_fp32*"))


@pytest.mark.nightly
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeed_resumed_comes_to_what_it_would_have_come_to(doubled, deepspeed, stage):
    under_deepspeed(doubled, deepspeed, stage)
    killed_and_resumed(doubled)
    resumed, curve = adapter(doubled), losses(doubled)
    assert doubled.doit("forget", "train", "adapter").code == 0
    assert "resuming" not in doubled.built("adapter").err
    assert losses(doubled) == pytest.approx(curve, abs=1e-4)
    assert far(resumed, adapter(doubled)) < 1e-5


def test_a_process_that_is_killed_ends_the_other_and_the_next_build_goes_on(doubled):
    doubled.edit("steps = 4", "steps = 4000")
    doubled.edit("every = 2, keep = 2", "every = 20, keep = 2")
    process = doubled.start("doit", "train")
    wait_for(lambda: any(any(work.glob("iter_*.pth")) for work in doubled.work("train")))
    found = ranks(doubled)
    assert sorted(found) == [0, 1]
    os.kill(found[1], signal.SIGKILL)
    told = process.communicate(timeout=30)[0]
    assert process.returncode != 0
    (line,) = [line for line in told.splitlines() if "process 1" in line]
    assert "train: process 1 was killed (signal 9), most often for want of memory; the others were ended" in line
    assert "Traceback" not in told
    wait_for(lambda: not processes_of(doubled.root / "build"))
    process = doubled.start("doit", "train")
    wait_for(lambda: len(ranks(doubled)) == 2)
    (work,) = doubled.work("train")
    before = (work / "metrics.jsonl").read_text().splitlines()
    wait_for(lambda: len((work / "metrics.jsonl").read_text().splitlines()) > len(before) + 5)
    process.send_signal(signal.SIGTERM)  # both processes save one checkpoint together
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 143, told
    resumed = int(re.search(r"resuming from iter_(\d+)\.pth", told)[1])
    shown = [int(number) for number in re.findall(r"train (\d+)/4000", told)]
    assert shown == sorted(shown)
    assert all(number > resumed for number in shown)
    assert "the next build goes on from its newest checkpoint" in told
    wait_for(lambda: not processes_of(doubled.root / "build"))
    done = json.loads((work / "metrics.jsonl").read_text().splitlines()[-1])["iteration"]
    assert (work / f"iter_{done}.pth").exists()


def test_a_launcher_that_is_killed_is_told_as_such_and_leaves_nothing(doubled):
    doubled.edit("steps = 4", "steps = 4000")
    process = doubled.start("doit", "train")
    wait_for(lambda: any((work / "metrics.jsonl").exists() for work in doubled.work("train")))
    (launcher,) = {parent_of(number) for number in ranks(doubled).values()}
    os.kill(launcher, signal.SIGKILL)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 1, told
    assert "train: torchrun, which had started its processes, was killed (signal 9); they were ended with it" in told
    assert "Traceback" not in told
    wait_for(lambda: not processes_of(doubled.root / "build"))


def parent_of(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_settings_of_deepspeed_in_a_file_and_what_is_wrong_with_them(project):
    project.edit("batch_size = 2", 'batch_size = 2\ndeepspeed = "own.json"')
    assert "own.json: not found; config reads it" in project.doit("config").told()
    project.write("own.json", '{"zero_optimization": {"stage": 2}, "bf16": {"enabled": true}}')
    told = project.doit("config")
    assert told.code != 0
    assert "train.deepspeed: bf16.enabled is not train.precision's" in told.told()
    project.write("own.json", '{"zero_optimization": {"stage": 1}}')
    project.built("config")
    made = json.loads((project.root / "build/default/config/deepspeed.json").read_text())
    assert made["zero_optimization"] == {"stage": 1}
    assert (made["bf16"], made["fp16"]) == ({"enabled": False}, {"enabled": False})
    project.edit('deepspeed = "own.json"', "deepspeed = { zero_optimization = { stage = 2 } }")
    project.built("config")
    made = json.loads((project.root / "build/default/config/deepspeed.json").read_text())
    assert made["zero_optimization"] == {"stage": 2}
