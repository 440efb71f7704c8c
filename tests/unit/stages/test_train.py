"""The train stage: how its own process and the training's end together."""

import os
import signal
import subprocess
import sys

import pytest

from tunemake.engines.launching import Launch
from tunemake.stages import LOG, Job, train


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
