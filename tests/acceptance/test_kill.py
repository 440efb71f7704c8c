"""Kills and interrupts in the middle of training: nothing finished is lost, nothing half-made is taken for whole."""

import json
import signal
import time

import pytest

from conftest import kill, processes_of, wait_for

pytestmark = pytest.mark.train


@pytest.fixture
def training(project):
    """A project in the middle of a training long enough to be killed, with a checkpoint after each iteration."""
    project.edit("steps = 4", "steps = 400")
    project.edit("every = 2, keep = 2", "every = 1, keep = 3")
    process = project.start("doit", "train")
    wait_for(lambda: any(len(list(work.glob("iter_*.pth"))) == 3 for work in project.work("train")))
    return project, process


def newest(project):
    work = project.work("train")[0]
    return max(int(path.stem[5:]) for path in work.glob("iter_*.pth"))


def shorten(project):
    """The same training, but not so long: only for a test that wants its end. Deletes nothing."""
    project.edit("steps = 400", "steps = 4")


def test_kill_9_then_doit_resumes_and_what_had_finished_is_not_rebuilt(project):
    project.edit("steps = 4", "steps = 60")
    project.edit("every = 2, keep = 2", "every = 5, keep = 20")
    process = project.start("doit")
    wait_for(lambda: any(list(work.glob("iter_*.pth")) for work in project.work("train")))
    kill(process)
    wait_for(lambda: not processes_of(project.root / "build"))
    before = newest(project)
    assert not (project.root / "build/default/train").exists()
    # a checkpoint cut short by the kill is not resumed from
    torn = project.work("train")[0] / f"iter_{before + 5}.pth"
    torn.write_bytes((project.work("train")[0] / f"iter_{before}.pth").read_bytes()[:-200])
    done = project.doit()
    assert done.code == 0, done.told()
    assert done.ran == ["train", "adapter", "merge", "evaluate"]
    assert f"resuming from iter_{before}.pth" in done.err
    assert f"iter_{before + 5}.pth.torn: a checkpoint cut short" in done.err
    lines = [json.loads(line) for line in (project.root / "build/default/train/metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 61))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_within_seconds_with_its_code_and_leaves_no_process(training, number, code):
    project, process = training
    started = time.monotonic()
    assert kill(process, number) == code
    assert time.monotonic() - started < 15
    wait_for(lambda: not processes_of(project.root / "build"))
    assert not (project.root / "build/default/train").exists()
    assert newest(project) > 0


def test_another_setting_never_resumes_from_it(training):
    project, process = training
    kill(process)
    wait_for(lambda: not processes_of(project.root / "build"))
    shorten(project)
    done = project.doit("train")
    assert done.code == 0, done.told()
    assert "resuming" not in done.err


def test_a_second_build_waits_for_the_first_and_finds_its_work_done(project):
    project.edit("steps = 4", "steps = 12")
    first, second = project.start("doit", "train"), project.start("doit", "train")
    outs = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outs
    log = [json.loads(line)["stage"] for line in (project.root / "build/log.jsonl").read_text().splitlines()]
    assert log.count("train") == 1
