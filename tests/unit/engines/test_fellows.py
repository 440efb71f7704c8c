"""Processes that torchrun starts, one of which dies or ends: what becomes of the others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# As XTuner's process does it, but that what it waits in, as it would in NCCL, lies outside of Python: a signal that is
# caught does not end it.
SCRIPT = """
import ctypes, os, signal, sys, time
from tunemake.engines import fellows

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # at once: another says something too

fellows.end_with_launcher()
say("started", os.getpid())
if sys.argv[1] == "starts":
    time.sleep(60)
import torch.distributed
torch.distributed.init_process_group("gloo")
rank, told = torch.distributed.get_rank(), []
fellows.end_with_fellows()
signal.signal(signal.SIGTERM, lambda *_: told.append(1))

def wait(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ctypes.CDLL(None).poll(None, 0, 1000)

torch.distributed.barrier()
say("together")
if sys.argv[1] == "saves" and rank == 0:
    fellows.whole(wait)(6)
    say("saved")
if sys.argv[1] in {"killed", "saves"} and rank == 1:
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "fails" and rank == 1:
    raise ValueError("no such sample")
if sys.argv[1] == "told" and rank == 1:
    while not told:
        time.sleep(0.1)
    os._exit(3)
if sys.argv[1] in {"ends", "hangs"}:
    fellows.leave()
    if sys.argv[1] == "hangs":
        say("hangs")
        time.sleep(60)
    time.sleep(2 * rank)
    say("left")
    os._exit(0)
wait(60)
say("waited")
"""


def start(tmp_path, what):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "script.py",
        what,
    ]
    environment = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "30", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )


def lines_until(process, word, count):
    """Read what is printed until so many lines have begun with a word."""
    lines = []
    while sum(line.startswith(word) for line in lines) < count:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        lines.append(line)
    return lines


@pytest.mark.parametrize(("what", "told"), [("killed", "exitcode  : -9"), ("fails", "exitcode  : 1")])
def test_one_that_waits_for_a_dead_one_ends_too_and_the_first_failure_is_told(tmp_path, what, told):
    process = start(tmp_path, what)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "waited" not in out
    first = error.partition("Root Cause")[2]
    assert "rank      : 1" in first
    assert told in first
    assert "forcefully" not in error  # as torchrun tells of one that it had to kill after half a minute


def test_one_that_fails_while_all_end_is_not_waited_for(tmp_path):
    process = start(tmp_path, "told")
    lines_until(process, "together", 2)
    process.send_signal(signal.SIGTERM)  # torchrun tells both, and waits for the first before it looks at the second
    out, error = process.communicate(timeout=120)
    assert "waited" not in out
    assert "forcefully" not in error


def test_a_checkpoint_that_is_being_written_is_written_to_its_end(tmp_path):
    process = start(tmp_path, "saves")
    out, error = process.communicate(timeout=120)
    assert "saved" in out
    assert "waited" not in out
    assert "forcefully" not in error


def test_one_that_ends_before_another_ends_it_not(tmp_path):
    process = start(tmp_path, "ends")
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert out.count("left") == 2


@pytest.mark.parametrize(("what", "word"), [("starts", "started"), ("hangs", "hangs")])
def test_none_outlives_torchrun(tmp_path, what, word):
    process = start(tmp_path, what)
    lines = lines_until(process, word, 2)
    found = [int(line.split()[1]) for line in lines if line.startswith("started")]
    assert len(found) == 2
    process.kill()
    process.communicate(timeout=60)  # until the last of them has closed its output
    end = time.monotonic() + 20
    while (left := [number for number in found if Path(f"/proc/{number}").exists()]) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []
