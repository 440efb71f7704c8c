"""Trainings that pause and trainings that grow: what comes out is what would have come out without."""

import json
import signal

import pytest

from conftest import kill, processes_of, wait_for

pytestmark = pytest.mark.train
DETERMINISTIC = 'batch_size = 2\ndeterministic = true\nschedule = "constant"'


@pytest.fixture
def steady(project):
    """A project whose training may grow: a constant learning rate, no warm-up."""
    project.edit("batch_size = 2", DETERMINISTIC)
    project.edit("alpha = 4 }", "alpha = 4, dropout = 0.3 }")
    return project


def weights(project):
    return project.record("default/adapter")["outputs"]["adapter_model.safetensors"]["sha256"]


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("iter_*.pth"))


def test_a_training_interrupted_and_killed_ends_as_one_that_was_not(steady):
    steady.edit("steps = 4", "steps = 60")
    steady.edit("every = 2, keep = 2", "every = 25, keep = 2")
    process = steady.start("doit", "train")
    wait_for(lambda: any((work / "metrics.jsonl").exists() for work in steady.work("train")))
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 143, out
    assert "the next build goes on from its newest checkpoint" in out
    (work,) = steady.work("train")
    (saved,) = checkpoints(work)  # by the interrupt: the first regular one is the 25th
    process = steady.start("doit", "train")
    wait_for((work / "iter_25.pth").exists)
    kill(process)
    wait_for(lambda: not processes_of(steady.root / "build"))
    done = steady.built("adapter")
    assert "resuming from iter_" in done.err
    assert checkpoints(steady.root / "build/default/train") == ["iter_50.pth", "iter_60.pth"]
    resumed = weights(steady)
    assert steady.doit("forget", "train", "adapter").code == 0
    assert "resuming" not in steady.built("adapter").err
    assert weights(steady) == resumed
    assert saved not in checkpoints(steady.root / "build/default/train")


def test_more_steps_of_the_same_go_on_and_come_out_as_if_they_had_never_paused(steady):
    steady.built("train")
    steady.edit("steps = 4", "steps = 8")
    done = steady.built("adapter")
    assert done.why("train") == "train.steps: 4 → 8"
    assert "train: goes on from iter_4.pth of the training of 4" in done.err
    lines = (steady.root / "build/default/train/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, 9))
    extended = weights(steady)
    for path in (steady.root / "build/.store").glob("train-*"):
        path.rename(steady.root / path.name)
    steady.built("adapter")
    assert weights(steady) == extended


def test_under_a_falling_rate_a_longer_training_is_a_new_one_and_says_so(built):
    built.edit("steps = 4", "steps = 8")
    done = built.built("train")
    assert "under a cosine schedule a longer training is a new one" in done.why("train")
    assert "goes on" not in done.err


def test_epochs_whose_last_step_was_not_whole_begin_anew(steady):
    steady.edit("steps = 4", "epochs = 1\naccumulation = 2")  # 11 iterations an epoch
    steady.built("train")
    steady.edit("epochs = 1", "epochs = 2")
    assert "goes on" not in steady.built("train").err
