"""The train stage: how its own process and the training's end together."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tunemake.engines import xtuner
from tunemake.engines.launching import Launch
from tunemake.json_lines import append, keep_until
from tunemake.stages import EVENTS, LOG, Job, train


@pytest.fixture
def terminated():
    """Put back what this process does when it is told to end."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminated")
def test_who_is_told_to_end_just_before_the_training_begins_ends(tmp_path, monkeypatch):
    begin = subprocess.Popen

    def told_first(*args, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return begin(*args, **named)

    monkeypatch.setattr(subprocess, "Popen", told_first)
    monkeypatch.setattr(train.xtuner, "train_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(train, "_check", lambda _: None)  # it needs a model
    (tmp_path / LOG).touch()
    runtime = {"trackers": [], "template": {"trust_remote_code": False}}
    job = Job(tmp_path, tmp_path, {}, runtime, {"config": tmp_path})
    with pytest.raises(SystemExit) as ended:
        train._train(job, tmp_path, Launch(1), None)
    assert ended.value.code == 128 + signal.SIGTERM


def events(job):
    path = job.work / EVENTS
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [event.get("say", event.get("done")) for event in map(json.loads, lines)]


@pytest.mark.parametrize("kept", [2, 4])  # what lies beyond the checkpoint is taken back, or nothing does
def test_a_resumed_training_tells_nothing_of_what_was_before(tmp_path, kept):
    metrics, answers = tmp_path / xtuner.METRICS, tmp_path / xtuner.ANSWERS

    def train_one(iteration):
        line = {"loss": 1.0, "tokens": 9, "seconds": 1.0, "iterations": 9}
        append(answers, {"iteration": iteration, "prompt": "Who?", "answer": str(iteration)})
        append(metrics, {"iteration": iteration, **line})

    for iteration in (1, 2, 3, 4):
        train_one(iteration)
    job = Job(tmp_path, tmp_path, {}, {}, {})
    ended = threading.Event()
    relay = threading.Thread(target=train._relay, args=(job, ended, kept))
    relay.start()
    time.sleep(0.7)
    assert events(job) == []
    keep_until(metrics, kept)
    keep_until(answers, kept)
    time.sleep(0.7)
    assert events(job) == []
    train_one(kept + 1)
    ended.set()
    relay.join()
    assert set(events(job)) == {kept + 1, f"iteration {kept + 1}  Who? → {kept + 1}"}
