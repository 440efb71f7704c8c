import os
import subprocess
import sys
import threading

import pytest

from tunemake.faults import StageError
from tunemake.shares import share, side_by_side

MACHINE = {"trainings_per_gpu": 1}


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ([], 1),
        (["-n", "2"], 2),
        (["-n4", "train"], 4),
        (["run", "--process=3"], 3),
        (["--process", "2"], 2),
        (["train"], 1),
    ],
)
def test_how_many_tasks_doit_runs_at_once(arguments, number):
    assert side_by_side(arguments) == number


def test_each_stage_has_a_gpu_of_its_own_and_the_third_waits_for_one():
    machine = {**MACHINE, "gpus": [3, 5]}
    told, begun, ended = [], threading.Event(), threading.Event()

    def third():
        with share(machine, lambda text: (told.append(text), begun.set())) as (environment, _):
            told.append(environment["CUDA_VISIBLE_DEVICES"])
        ended.set()

    with share(machine, told.append) as (first, _):
        with share(machine, told.append) as (second, _):
            assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("3", "5")
            threading.Thread(target=third, daemon=True).start()
            assert begun.wait(10)
        assert ended.wait(10)
    assert told == ["waiting for a GPU; 3, 5 are taken by other stages", "5"]


def test_a_gpu_is_shared_where_the_project_says_so():
    machine = {"gpus": 1, "trainings_per_gpu": 2}
    with share(machine, print) as (first, _), share(machine, print) as (second, _):
        assert first["CUDA_VISIBLE_DEVICES"] == second["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_gpu_stays_taken_until_the_last_process_that_holds_it_ends():
    machine, told = {**MACHINE, "gpus": 1}, []
    with share(machine, told.append) as (_, held):
        code = "import sys; print('on', flush=True); sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=held, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout.readline() == b"on\n"

    def end(text):
        told.append(text)
        child.communicate()

    with share(machine, end):
        assert child.returncode == 0
    assert told == ["waiting for a GPU; 0 is taken by other stages"]


def test_what_the_user_lets_be_seen_is_all_there_is(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    with share(MACHINE, print) as (environment, _):
        assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with share(MACHINE, print) as (environment, held):
        assert (environment.get("CUDA_VISIBLE_DEVICES"), held) == (None, [])


def test_threads_are_parted(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys, "argv", ["doit", "-n", "2"])
    with share({**MACHINE, "gpus": 1}, print) as (environment, _):
        assert environment["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    with share({**MACHINE, "gpus": 1, "threads": 7}, print) as (environment, _):
        assert environment["OMP_NUM_THREADS"] == "7"


def test_several_gpus_are_taken_together_or_not_at_all():
    machine, told, begun, ended = {**MACHINE, "gpus": 3}, [], threading.Event(), threading.Event()

    def both():
        with share(machine, lambda text: (told.append(text), begun.set()), 3) as (environment, held):
            told.append((environment["CUDA_VISIBLE_DEVICES"], len(held)))
        ended.set()

    with share(machine, print, 2) as (environment, held):
        assert (environment["CUDA_VISIBLE_DEVICES"], len(held)) == ("0,1", 2)
        threading.Thread(target=both, daemon=True).start()
        assert begun.wait(10)
        with share(machine, print) as (third, _):  # the one that waits holds none meanwhile
            assert third["CUDA_VISIBLE_DEVICES"] == "2"
    assert ended.wait(10)
    assert told == ["waiting for 3 GPUs; 0, 1, 2 are taken by other stages", ("0,1,2", 3)]


def test_more_gpus_than_stages_may_have_are_refused():
    with (
        pytest.raises(StageError, match=r"launch\.gpus: more than stages may have; expected at most 1, got 2"),
        share({**MACHINE, "gpus": 1}, print, 2),
    ):
        pass


def test_processes_of_one_training_part_the_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    with share(MACHINE, print, 2) as (environment, _):
        assert environment == dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(max(1, cores // 2)))
