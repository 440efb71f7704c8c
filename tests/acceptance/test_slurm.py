"""Trainings as jobs of a real Slurm: found again after a kill, told apart by how they ended, resumed."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

import slurm_cluster
from conftest import TinyProject, kill, wait_for
from tunemake.job_request import job_name

LACKING = slurm_cluster.lacking()
pytestmark = [pytest.mark.train, pytest.mark.skipif(LACKING is not None, reason=str(LACKING))]
LAUNCH = """
[launch]
on = "slurm"
[launch.slurm]
partition = "test"
time = 30
options = { cpus-per-task = 1 }
"""
VARIANTS = """
[variants.a]
train.lora.r = 1
[variants.b]
train.lora.r = 2
[variants.c]
train.lora.r = 3
"""


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster.running() as made:
        yield made


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_llama):
    """A project all but trained, whose training is long enough to be caught, with a checkpoint after each iteration."""
    made = TinyProject(tmp_path_factory.mktemp("prepared") / "p")
    shutil.copytree(tiny_llama, made.root / "models" / "tiny")
    made.edit("[evaluate]", LAUNCH + "\n[evaluate]")
    made.edit("steps = 4", "steps = 40")
    made.edit("every = 2, keep = 2", "every = 1, keep = 3")
    made.built("config", "data")
    return made.root


@pytest.fixture
def project(tmp_path, prepared, cluster):
    made = TinyProject.__new__(TinyProject)
    made.root = tmp_path / "p"
    subprocess.run(["cp", "-a", str(prepared), str(made.root)], check=True)
    yield made
    cluster.run("scancel", "--me")
    wait_for(lambda: not cluster.run("squeue", "--noheader").strip())


def jobs(cluster):
    """Name and state of each job that Slurm still knows, by number."""
    told = cluster.run("scontrol", "--oneliner", "show", "job")
    found = re.findall(r"JobId=(\d+) JobName=(\S+).*? JobState=(\S+)", told)
    return {number: (name, state) for number, name, state in found}


def trainings(project, cluster):
    """Numbers of all trainings' jobs of a project so far."""
    family = job_name(project.root / "build" / ".work" / "train-")
    return {number for number, (name, _) in jobs(cluster).items() if name.startswith(family)}


def checkpoints(project):
    return {work: {path.name for path in work.glob("iter_*.pth")} for work in project.work("train")}


def made(project, stage):
    lines = [json.loads(line) for line in (project.root / "build/log.jsonl").read_text().splitlines()]
    return [line["stage"] for line in lines if line["stage"].partition(":")[0] == stage]


def training(project):
    """Start a build, and wait until its training has a checkpoint."""
    process = project.start("doit", "train")
    wait_for(lambda: any(checkpoints(project).values()))
    return process


def test_three_variants_are_jobs_at_once_and_a_killed_build_finds_them_again(project, cluster):
    project.edit("\n[train]", VARIANTS + "\n[train]")
    # Long enough that all three are at it, whichever began first.
    project.edit("steps = 40", "steps = 1000")
    project.edit("every = 1, keep = 3", "every = 50, keep = 3")
    process = project.start("doit", "-n", "3")
    wait_for(lambda: len(checkpoints(project)) == 3 and all(checkpoints(project).values()), 240)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = trainings(project, cluster)
    assert len(before) == 3
    done = project.doit("-n", "3")
    assert done.code == 0, done.told()
    assert {number for number in before if f"job {number} of an earlier build is found again" in done.err} == before
    assert trainings(project, cluster) == before
    assert sorted(made(project, "train")) == ["train:a", "train:b", "train:c"]
    assert {state for _, state in jobs(cluster).values()} == {"COMPLETED"}
    kinds = [name.split("-")[2] for name, _ in jobs(cluster).values()]
    assert sorted(kinds) == ["baseline", *["evaluate"] * 3, *["train"] * 3]  # the light stages were none
    for variant in "abc":
        assert not project.record(f"{variant}/train")["facts"].get("resumed_from")
    project.edit("time = 30", "time = 40")
    again = project.doit()
    assert again.ran == [], again.out  # where a stage runs makes nothing stale


def test_a_build_killed_while_it_submits_starts_no_second_job(project, cluster):
    for _ in range(4):
        cluster.run("sbatch", "--output=/dev/null", "--job-name=filler", "--wrap", "sleep 600")
    project.edit("steps = 40", "steps = 4")
    process = project.start("doit", "train")
    wait_for(lambda: any((work / ".slurm/job.json").exists() for work in project.work("train")))
    kill(process)
    (work,) = project.work("train")
    number = json.loads((work / ".slurm/job.json").read_text())["job"]
    # As if it had been killed right after sbatch: nothing noted, and submitit's file not yet the job's.
    (work / ".slurm/job.json").unlink()
    (work / f".slurm/{number}_submitted.pkl").rename(work / ".slurm" / f"{'0' * 32}.pkl")
    cluster.run("scancel", "--name=filler")
    done = project.built("train")
    assert f"job {number} of an earlier build is found again" in done.err
    assert trainings(project, cluster) == {number}


@pytest.mark.nightly
def test_a_job_that_ends_while_nobody_waits_is_taken_as_it_is(project, cluster):
    project.edit("steps = 40", "steps = 4")
    process = project.start("doit", "train")
    wait_for(lambda: any((work / ".slurm/job.json").exists() for work in project.work("train")))
    kill(process)
    (number,) = trainings(project, cluster)
    wait_for(lambda: jobs(cluster)[number][1] == "COMPLETED")
    assert not (project.root / "build/default/train").exists()
    done = project.built("train")
    assert f"train: job {number} of an earlier build is found again" in done.err
    assert trainings(project, cluster) == {number}
    assert "resumed_from" not in project.record("default/train")["facts"]


def test_a_cancelled_job_is_told_and_the_next_build_resumes(project, cluster):
    process = training(project)
    (first,) = trainings(project, cluster)
    cluster.run("scancel", first)
    out = process.communicate(timeout=90)[0]
    assert process.returncode == 1
    line = rf"train: job {first} was cancelled \(scancel\) after .*; the next build goes on from (iter_\d+)\n"
    kept = re.search(line, out)
    assert kept, out
    # The next one is cancelled while nobody waits.
    process = project.start("doit", "train")
    wait_for(lambda: any(f"iter_{int(kept[1][5:]) + 1}.pth" in found for found in checkpoints(project).values()))
    kill(process)
    (second,) = trainings(project, cluster) - {first}
    cluster.run("scancel", second)
    wait_for(lambda: jobs(cluster)[second][1] == "CANCELLED")
    done = project.built("train")
    assert f"resuming from {kept[1]}.pth" in done.err  # told by the second job
    assert re.search(rf"train: job {second} was cancelled \(scancel\) after .*; a new job takes its place\n", done.err)
    assert int(project.record("default/train")["facts"]["resumed_from"][5:-4]) > int(kept[1][5:])
    assert len(trainings(project, cluster)) == 3


@pytest.mark.nightly
def test_ctrl_c_leaves_the_job_and_a_requeued_one_goes_on(project, cluster):
    project.edit("steps = 40", "steps = 70")
    process = training(project)
    (number,) = trainings(project, cluster)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert f"train: interrupted; job {number} runs on: the next doit waits for it, scancel {number} ends it" in out
    assert jobs(cluster)[number][1] == "RUNNING"
    # Neither a sweep nor a build without Slurm works where the job does.
    swept = project.run("tunemake", "gc", "--work")
    assert f"job {number} of Slurm works there" in swept.told()
    project.edit('on = "slurm"', 'on = "here"')
    here = project.doit("train")
    assert here.code == 1
    assert f"train: job {number} of Slurm works on it" in here.told()
    project.edit('on = "here"', 'on = "slurm"')
    cluster.run("scontrol", "requeue", number)
    wait_for(lambda: jobs(cluster)[number][1] == "PENDING")
    cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now")  # Slurm lets a requeued job wait two minutes
    done = project.built("train")
    assert f"job {number} of an earlier build is found again" in done.err
    assert "resuming from iter_" in done.err
    assert trainings(project, cluster) == {number}


def test_a_preempted_job_is_told_from_a_cancelled_one(project, cluster):
    project.edit("{ cpus-per-task = 1 }", "{ exclusive = true, no-requeue = true }")
    project.edit("steps = 40", "steps = 400")
    process = training(project)
    (number,) = trainings(project, cluster)
    cluster.run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    out = process.communicate(timeout=90)[0]
    assert process.returncode == 1
    assert f"train: job {number} had to make room for another (preempted) after " in out


def test_a_stage_that_fails_in_a_job_tells_its_own_fault(project, cluster):
    question = json.loads((project.root / "build/default/data/train.json").read_text())[0]["messages"][0]["content"]
    project.edit("count to three for me", question)
    done = project.doit("train")
    assert done.code == 1
    line = f"evaluate.probe leak: trained on: {question}; expected prompts that are not in the training data"
    assert line in done.out.splitlines()
    (number,) = trainings(project, cluster)
    assert f"job {number} " not in done.out
    assert jobs(cluster)[number][1] == "FAILED"


def test_what_sbatch_refuses_is_one_line_at_its_place(project):
    project.edit('partition = "test"', 'partition = "nosuch"')
    done = project.doit("train")
    assert done.code == 1
    assert re.search(r"project\.toml:\d+:\d+: launch\.slurm: sbatch refuses the job; got invalid partition", done.out)
    assert "Traceback" not in done.told()


@pytest.mark.nightly
def test_jobs_bounds_how_many_are_in_the_queue(project, cluster):
    project.edit("\n[train]", VARIANTS.partition("[variants.c]")[0] + "\n[train]")
    project.edit("time = 30", "time = 30\njobs = 1")
    project.edit("steps = 40", "steps = 4")
    process = project.start("doit", "-n", "2", "train")
    most = 0
    while process.poll() is None:
        live = [name for name, state in jobs(cluster).values() if state in {"PENDING", "RUNNING"}]
        most = max(most, sum(name.startswith("tunemake-") for name in live))
    out = process.communicate()[0]
    assert process.returncode == 0, out
    assert most == 1
    assert "waiting: 1 jobs are in the queue" in out


@pytest.mark.nightly
def test_a_job_over_its_time_limit_saves_is_told_and_the_next_build_resumes(project, cluster):
    project.edit("time = 30", "time = 1")
    project.edit("steps = 40", "steps = 4000")
    process = training(project)
    (number,) = trainings(project, cluster)
    out = process.communicate(timeout=180)[0]
    assert process.returncode == 1
    line = rf"train: job {number} ran over its time limit of 1 min; raise time in \[launch.slurm\], or build again: "
    kept = re.search(line + r"the next build goes on from (iter_\d+)\n", out)
    assert kept, out
    project.edit("time = 1", "time = 30")
    process = project.start("doit", "train")
    wait_for(lambda: any(f"{kept[1]}.pth" in (work / "log.txt").read_text() for work in project.work("train")))
    (work,) = project.work("train")
    wait_for(lambda: max(int(name[5:-4]) for name in checkpoints(project)[work]) > int(kept[1][5:]) + 1)
    kill(process)
    assert len(trainings(project, cluster)) == 2
