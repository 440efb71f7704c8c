"""A training that has met its own probes ends early, and is whole; its curves go to a tracker beside the build."""

import json

import pytest

PROBE = '{ name = "short", kind = "answer_length", prompts = ["what is it?"], at_most = 1000 }'
NEVER = '{ name = "long", kind = "answer_length", prompts = ["what is it?"], at_least = 1000 }'


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.train
def test_a_training_ends_when_enough_checks_in_a_row_met_all_probes(project):
    project.edit(
        "steps = 4",
        f'steps = 12\nlog_every = 3\ntrackers = ["tensorboard"]\nearly_stop = {{ every = 2, probe = [{PROBE}] }}',
    )
    done = project.built("train")
    assert "ended early: its probes were met at iteration 4 of 12" in done.told()
    train = project.root / "build/default/train"
    assert [line["iteration"] for line in lines(train / "early_stop.jsonl")] == [2, 4]
    assert (train / "last_checkpoint").read_text() == "iter_4.pth"
    assert (train / "iter_4.pth").exists()
    assert project.record("default/train")["facts"]["ended_early"] is True
    (events,) = (project.root / "build" / "tracking").glob("train-*/events.out.tfevents.*")
    assert b"loss" in events.read_bytes()
    assert not list(train.glob("**/events*"))
    assert project.doit("train").ran == []
    project.edit(PROBE, NEVER)
    again = project.built("train")
    assert "train.early_stop" in again.why("train")
    assert project.record("default/train")["facts"]["iterations"] == 12
    assert project.record("default/train")["facts"]["ended_early"] is False
    assert [line["met"] for line in lines(train / "early_stop.jsonl")] == [False] * 5
