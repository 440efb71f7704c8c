import fcntl
import io
import json
import re
import sys
import threading
from contextlib import contextmanager

import pytest

from report_project import PROJECT, metrics
from tunemake.commands import watch as module
from tunemake.commands.watch import trainings, watch
from tunemake.faults import InputError


class Training:
    """What a build keeps on disk of a training that runs: its job, its lock, its lines."""

    def __init__(self, root, variant="default", number=1):
        self.work = root / "build" / ".work" / f"train-{number:016}"
        self.work.mkdir(parents=True)
        job = {"root": str(root), "runtime": {"links": {"data": f"build/{variant}/data"}}}
        (self.work / ".job.json").write_text(json.dumps(job))
        self.entry = root / "build" / ".store" / self.work.name

    @contextmanager
    def running(self):
        with self.work.with_name(f"{self.work.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def goes_to(self, iteration):
        lines = [json.dumps(metrics(n, 40)) for n in range(1, iteration + 1)]
        (self.work / "metrics.jsonl").write_text("\n".join(lines) + '\n{"iteration": 9')

    def ends(self):
        self.entry.parent.mkdir()
        (self.work / "artifact.json").write_text("{}")
        self.work.rename(self.entry)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "project.toml").write_text(PROJECT)
    return tmp_path


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(module, "_LOOK", 0.02)
    return []


def test_where_none_runs_a_line_says_so(root, said):
    assert watch(root, None, said.append, live=False) == 0
    left = Training(root)  # by a build that was killed: its lock is free
    left.goes_to(10)
    left.work.with_name(f"{left.work.name}.lock").touch()
    assert watch(root, "default", said.append, live=False) == 0
    assert said == ["no training is running", "no training of default is running"]


def test_a_variant_that_the_project_does_not_have_is_told(root, said):
    with pytest.raises(InputError, match=r'^defualt: no such variant; did you mean "default"\?$'):
        watch(root, "defualt", said.append, live=False)
    assert said == []


def test_it_follows_to_the_end(root, said):
    training = Training(root)
    training.goes_to(30)
    with training.running():
        thread = threading.Thread(target=watch, args=(root, None, said.append), kwargs={"live": False})
        thread.start()
        while not said:
            thread.join(0.01)
        training.goes_to(40)
        training.ends()
    thread.join(5)
    assert said == [
        "train 30/40  loss 0.100  200 tokens/s  0:00:05 left",
        "train: done at iteration 40 of 40, loss 0.075",
    ]


def test_a_terminal_has_one_line_that_changes_and_one_at_the_end(root, said, capsys):
    training = Training(root)
    training.goes_to(30)
    drawn = io.StringIO()
    with training.running():
        (found,) = trainings(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", drawn)
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("COLUMNS", "120")
        assert module._follow(found, said.append, live=True)["iteration"] == 30
    assert said == []
    assert re.search(r"train.*30/40.*loss 0\.100  200 tokens/s  0:00:05 left", drawn.getvalue())
    assert capsys.readouterr().err == ""


def test_a_training_that_ended_before_it_was_done_is_told(root, said):
    training = Training(root)
    training.goes_to(30)
    with training.running():
        (found,) = trainings(root)
    assert found.variant == "default"
    results = []
    with training.running():
        thread = threading.Thread(target=lambda: results.append(watch(root, None, said.append, live=False)))
        thread.start()
        while not said:
            thread.join(0.01)
    thread.join(5)
    assert results == [1]
    assert said[-1] == "train: ended at iteration 30 of 40, and is not done; doit goes on with it"


def test_of_several_one_is_named(root, said):
    one, two = Training(root, "r8", 1), Training(root, "r16", 2)
    with one.running(), two.running():
        with pytest.raises(InputError, match="several trainings run; name one: r16, r8"):
            watch(root, None, said.append, live=False)
        assert {training.variant for training in trainings(root)} == {"r8", "r16"}


def test_the_trainings_of_another_project_in_the_same_store_are_not_ours(root, tmp_path):
    training = Training(root)
    (training.work / ".job.json").write_text(json.dumps({"root": str(tmp_path / "other"), "runtime": {"links": {}}}))
    with training.running():
        assert list(trainings(root)) == []


def test_only_the_end_of_a_long_file_is_read(root):
    training = Training(root)
    lines = [json.dumps(metrics(n, 9000)) for n in range(1, 5001)]
    (training.work / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with training.running():
        (found,) = trainings(root)
        told = found.told()
    assert (told["iteration"], told["iterations"], told["left"], told["speed"]) == (5000, 9000, 2000.0, 200.0)
