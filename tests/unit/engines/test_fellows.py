"""Processes that torchrun starts, one of which dies or ends: what becomes of the others."""

import subprocess
import sys

import pytest

# As XTuner's process does it, but that what it waits in, as it would in NCCL, lies outside of Python: a signal that is
# caught does not end it.
SCRIPT = """
import ctypes, os, signal, sys, time
import torch.distributed
from tunemake.engines import fellows

fellows.end_with_launcher()
torch.distributed.init_process_group("gloo")
signal.signal(signal.SIGTERM, lambda *_: None)
fellows.end_with_fellows()
rank = torch.distributed.get_rank()
def wait(seconds):
    libc = ctypes.CDLL(None)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        libc.poll(None, 0, 1000)
torch.distributed.barrier()
if sys.argv[1] == "killed" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "fails" and rank == 1:
    raise ValueError("no such sample")
if sys.argv[1] == "ends":
    fellows.leave()
    time.sleep(2 * rank)
    print("left", rank, flush=True)
    os._exit(0)
wait(60)
print("waited to the end", flush=True)
"""


def run(tmp_path, what):
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
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)


@pytest.mark.parametrize(("what", "told"), [("killed", "exitcode  : -9"), ("fails", "exitcode  : 1")])
def test_one_that_waits_for_a_dead_one_ends_too_and_the_first_failure_is_told(tmp_path, what, told):
    done = run(tmp_path, what)
    assert done.returncode == 1
    assert "waited to the end" not in done.stdout
    first = done.stderr.partition("Root Cause")[2]
    assert "rank      : 1" in first
    assert told in first
    assert "forcefully" not in done.stderr  # as torchrun tells of one that it had to kill after half a minute


def test_one_that_ends_before_another_ends_it_not(tmp_path):
    done = run(tmp_path, "ends")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["0", "1", "left", "left"]
