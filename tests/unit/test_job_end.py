"""How a job ended: Slurm's word first, then the job's own note."""

import pytest

from tunemake.cluster import SlurmJob
from tunemake.job_end import cause, spoken, told


def job(state, ran="00:03:00"):
    return SlurmJob("12", "tunemake-0-train-0", state, "None", "node1", ran, "1-02:00:00")


WARNED = {"job": "12", "code": -15, "signals": ["SIGUSR2", "SIGTERM"]}


@pytest.mark.parametrize(
    ("shown", "status", "line"),
    [
        (job("CANCELLED"), {"job": "12", "code": 143, "signals": ["SIGTERM"]}, "was cancelled (scancel) after 3 min"),
        (job("CANCELLED", "00:00:00"), {}, "was cancelled (scancel) before it began"),
        (job("TIMEOUT"), {"job": "12"}, "ran over its time limit of 1 d 2 h"),
        (job("FAILED"), WARNED, "ran over its time limit of 1 d 2 h"),  # it saved and ended in time
        (job("CANCELLED"), WARNED, "was cancelled (scancel) after 3 min"),
        (None, WARNED, "ran over its time limit"),
        (job("PREEMPTED"), {"job": "12"}, "had to make room for another (preempted) after 3 min"),
        (job("OUT_OF_MEMORY"), {"job": "12", "code": -9, "signals": []}, "was ended for want of memory"),
        (job("NODE_FAIL"), {"job": "12"}, "lost its node after 3 min"),
        (job("FAILED"), {}, "ended before its stage did (failed)"),
        (None, {"job": "12"}, "is gone, and neither Slurm nor the job says why"),
        (None, {"job": "12", "code": 143, "signals": ["SIGTERM"]}, "was ended by SIGTERM, and Slurm does not say why"),
    ],
)
def test_what_ended_a_job_from_outside_is_one_line(shown, status, line):
    why = cause(shown, status)
    assert why is not None
    assert told("12", why, shown, status).startswith(f"job 12 {line}")


@pytest.mark.parametrize("code", [0, 1, -9])
def test_a_stage_that_ended_by_itself_tells_its_own(code):
    status = {"job": "12", "code": code, "signals": []}
    assert cause(job("FAILED" if code else "COMPLETED"), status) is None
    assert cause(None, status) is None


def test_a_stage_that_was_done_when_its_job_was_ended_is_done():
    assert cause(job("CANCELLED"), {"job": "12", "code": 0, "signals": ["SIGTERM"]}) is None


@pytest.mark.parametrize(
    ("time", "words"),
    [("00:00:00", "0 s"), ("00:01:00", "1 min"), ("01:00:30", "1 h 30 s"), ("2-00:00:00", "2 d"), ("UNLIMITED",) * 2],
)
def test_times_are_said_as_a_person_would(time, words):
    assert spoken(time) == words
