"""Kills and interrupts in the middle of training: nothing finished is lost, nothing half-made is taken for whole."""

import json
import os
import signal
import time
from pathlib import Path

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
    assert done.ran == ["train", "adapter", "merge", "evaluate", "report", "gate"]
    assert f"resuming from iter_{before}.pth" in done.err
    assert f"iter_{before + 5}.pth.torn: a checkpoint cut short" in done.err
    lines = [json.loads(line) for line in (project.root / "build/default/train/metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 61))


def test_a_build_killed_while_it_starts_a_stage_leaves_no_process(project):
    project.edit("steps = 4", "steps = 4000")
    project.built("config", "data")
    for _ in range(5):
        process = project.start("doit", "train")
        wait_for(lambda: processes_of(project.root / "build"))
        kill(process)
        wait_for(lambda: not processes_of(project.root / "build"), 10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_within_seconds_with_its_code_and_leaves_no_process(training, number, code):
    project, process = training
    started = time.monotonic()
    process.send_signal(number)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert time.monotonic() - started < 30  # of which it may take 20 to save a checkpoint
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert f"train: {word}; the next build goes on from its newest checkpoint" in out
    assert "Traceback" not in out
    wait_for(lambda: not processes_of(project.root / "build"))
    assert not (project.root / "build/default/train").exists()
    assert newest(project) > 0


@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGINT, {130, -signal.SIGINT}), (signal.SIGTERM, {143}), (signal.SIGKILL, {-9})]
)
def test_side_by_side_builds_end_with_all_their_processes_and_no_traceback(project, number, codes):
    project.edit("steps = 4", "steps = 4000")
    process = project.start("doit", "-n", "2")
    wait_for(lambda: any((work / "metrics.jsonl").exists() for work in project.work("train")))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal's Ctrl-C does
    else:
        process.send_signal(number)
    out = process.communicate(timeout=60)[0]
    assert process.returncode in codes, out
    assert "Traceback" not in out
    wait_for(lambda: not processes_of(project.root / "build") and not group_of(process.pid))


def group_of(number):
    """List the processes of a group that are not dead."""
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [stat for stat in stats if int(stat[2]) == number and stat[0] != "Z"]


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
    project.built("config", "tokens")  # one stage is left: of two, each build could make one and wait for the other
    first, second = project.start("doit", "train"), project.start("doit", "train")
    outs = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outs
    assert sum("waiting for another build, process " in out for out in outs) == 1
    log = [json.loads(line)["stage"] for line in (project.root / "build/log.jsonl").read_text().splitlines()]
    assert log.count("train") == 1


def test_what_a_killed_stage_had_started_goes_with_it(training):
    project, process = training
    told = f"tunemake.stages train {project.work('train')[0].resolve()}"
    (stage,) = [pid for pid in processes_of(project.root / "build") if told in command_of(pid)]
    os.kill(stage, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "train: was killed (signal 9)" in out
    assert not processes_of(project.root / "build")  # else it would train on beside the next build


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
