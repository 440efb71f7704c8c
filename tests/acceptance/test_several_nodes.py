"""Trainings over two nodes of a real Slurm: what comes out, and what becomes of a kill."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

import slurm_cluster
from conftest import TinyProject, kill, processes_of, wait_for
from several_processes import adapter, far, ranks

LACKING = slurm_cluster.lacking()
pytestmark = [pytest.mark.train, pytest.mark.skipif(LACKING is not None, reason=str(LACKING))]
LAUNCH = """
[launch]
on = "slurm"
nodes = 2
[launch.slurm]
time = 30
"""


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster.running(nodes=2) as made:
        yield made


@pytest.fixture
def project(tmp_path, tiny_llama, cluster):
    made = TinyProject(tmp_path / "p")
    shutil.copytree(tiny_llama, made.root / "models" / "tiny")
    made.edit("[evaluate]", LAUNCH + "\n[evaluate]")
    made.edit("lr = 1e-3", "lr = 1e-2")
    yield made
    cluster.run("scancel", "--me")
    wait_for(lambda: not cluster.run("squeue", "--noheader").strip())


def nodes(found):
    """Name the node of each process that trains, by its rank."""
    told = {rank: Path(f"/proc/{pid}/environ").read_bytes() for rank, pid in found.items()}
    return {rank: re.search(rb"SLURMD_NODENAME=(\w+)", text)[1] for rank, text in told.items()}


def training(project):
    """Start a build, and wait until its training has a checkpoint."""
    process = project.start("doit", "train")
    wait_for(lambda: any(any(work.glob("iter_*.pth")) for work in project.work("train")))
    return process


def last_line(project):
    (work,) = project.work("train")
    return json.loads((work / "metrics.jsonl").read_text().splitlines()[-1])


def test_two_nodes_come_to_what_two_processes_of_one_come_to(project, cluster):
    project.built("merge", "baseline")
    assert (project.root / "build/default/merged/model.safetensors").exists()
    assert project.record("default/train")["parameters"]["nodes"] == 2
    told = cluster.run("scontrol", "--oneliner", "show", "job")
    of = {name.split("-")[2]: count for name, count in re.findall(r"JobName=(\S+).*? NumNodes=(\d+)", told)}
    assert of == {"baseline": "1", "train": "2"}, told
    across = adapter(project)
    assert any(abs(weight).max() > 1e-3 for name, weight in across.items() if "lora_B" in name)
    project.edit('on = "slurm"\nnodes = 2', "gpus = 2")
    done = project.built("adapter")
    assert done.why("train") == "launch.nodes: 2 → 1; launch.gpus: 1 → 2"
    assert far(across, adapter(project)) < 1e-5


@pytest.mark.nightly
def test_a_process_killed_on_one_node_ends_the_other_and_the_next_build_goes_on(project):
    project.edit("steps = 4", "steps = 200")
    project.edit("every = 2, keep = 2", "every = 10, keep = 2")
    process = training(project)
    found = ranks(project)
    assert nodes(found) == {0: b"n1", 1: b"n2"}
    os.kill(found[1], signal.SIGKILL)
    told = process.communicate(timeout=90)[0]
    assert process.returncode == 1
    (line,) = [line for line in told.splitlines() if "process 1" in line]
    assert re.search(
        r": train: process 1 on \S+ was killed \(signal 9\), most often for want of memory; the others", line
    )
    assert "Traceback" not in told
    wait_for(lambda: not processes_of(project.root / "build"))
    done = project.built("train")
    assert "resuming from iter_" in done.err
    assert project.record("default/train")["facts"]["resumed_from"].startswith("iter_")


@pytest.mark.nightly
def test_deepspeed_killed_on_one_node_and_resumed_comes_to_a_merged_model(project, deepspeed):
    project.environment = {"PYTHONPATH": os.pathsep.join([str(deepspeed), *sys.path])}
    project.edit("batch_size = 2", 'batch_size = 2\ndeepspeed = "zero2"')
    project.edit("steps = 4", "steps = 60")
    project.edit("every = 2, keep = 2", "every = 10, keep = 2")
    process = training(project)
    os.kill(ranks(project)[1], signal.SIGKILL)
    told = process.communicate(timeout=120)[0]
    assert "process 1 on" in told
    (work,) = project.work("train")
    newest = max(work.glob("iter_*.pth"), key=lambda path: int(path.stem[5:]))
    whole = len(list(newest.glob("*_optim_states.pt"))) == 2
    done = project.built("merge")
    assert f"resuming from {newest.name}" in done.err or not whole
    assert "resuming from iter_" in done.err
    assert (project.root / "build/default/merged/model.safetensors").exists()


@pytest.mark.nightly
def test_a_requeued_job_goes_on_from_its_checkpoint(project, cluster):
    project.edit("steps = 4", "steps = 100")
    process = training(project)
    number = cluster.run("squeue", "--me", "--noheader", "--format=%A").strip()
    cluster.run("scontrol", "requeue", number)
    wait_for(lambda: "PENDING" in cluster.run("squeue", "--me", "--noheader", "--format=%T"))
    cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now")
    told = process.communicate(timeout=240)[0]
    assert process.returncode == 0, told
    assert "resuming from iter_" in told
    assert project.record("default/train")["parameters"]["nodes"] == 2


@pytest.mark.nightly
def test_a_cancelled_job_saves_one_checkpoint_of_both_nodes(project, cluster):
    project.edit("steps = 4", "steps = 4000")
    process = training(project)
    cluster.run("scancel", "--me")
    told = process.communicate(timeout=90)[0]
    assert process.returncode == 1
    kept = re.search(r"was cancelled \(scancel\) after .*; the next build goes on from (iter_\d+)", told)
    assert kept, told
    assert kept[1] == f"iter_{last_line(project)['iteration']}"


@pytest.mark.nightly
def test_a_job_over_its_time_limit_saves_one_checkpoint_of_both_nodes(project):
    project.edit("steps = 4", "steps = 40000")
    project.edit("every = 2, keep = 2", "every = 2000, keep = 2")
    project.edit("time = 30", "time = 1")
    told = project.doit("train").told()
    kept = re.search(r"ran over its time limit of 1 min; .*: the next build goes on from (iter_\d+)", told)
    assert kept, told
    assert kept[1] == f"iter_{last_line(project)['iteration']}"
    project.edit("time = 1", "time = 30")
    process = project.start("doit", "train")
    wait_for(
        lambda: any(f"{kept[1]}.pth" in log.read_text() for log in (project.root / "build/.work").glob("*/log.txt"))
    )
    wait_for(lambda: last_line(project)["iteration"] > int(kept[1][5:]))
    kill(process)
