import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tunemake.engines.launching import Launch, failure


def test_a_single_process_starts_as_it_is():
    launch = Launch()
    assert launch.command("m", ["train", "c"]) == [sys.executable, "-P", "-m", "m", "train", "c"]
    assert launch.environment() == {}


@pytest.mark.parametrize(
    ("launch", "has", "lacks"),
    [
        (Launch(2, gpu=True), ["--nproc-per-node 2", "--launcher pytorch"], ["gloo", "--deepspeed"]),
        (Launch(2), ["backend=gloo", "device_ids=None"], ["--deepspeed"]),
        (Launch(1, gpu=True, deepspeed=Path("d.json")), ["--nproc-per-node 1", "--deepspeed d.json"], ["gloo"]),
    ],
)
def test_several_processes_start_through_torchrun(launch, has, lacks):
    told = " ".join(launch.command("m", ["train", "c"]))
    assert "-m torch.distributed.run --standalone" in told
    assert all(part in told for part in has)
    assert not any(part in told for part in lacks)


SCRIPT = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    {}
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("does", "told"),
    [
        (
            f"os.kill(os.getpid(), {int(signal.SIGKILL)})",
            "process 1 was killed (signal 9), most often for want of memory",
        ),
        (f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", "process 1 was ended by signal 11"),
        (
            "sys.stderr.write('[rank1]: ValueError: no such thing\\n'); sys.exit(1)",
            "process 1 failed: ValueError: no such",
        ),
        ("sys.exit(3)", "process 1 failed: exit code 3"),
    ],
)
def test_the_first_failure_is_read_from_what_torchrun_itself_tells(tmp_path, does, told):
    (tmp_path / "job.py").write_text(SCRIPT.format(does))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "job.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    fault = failure(done.stderr)
    assert fault is not None
    assert fault.what.startswith(told)
    assert fault.what.endswith("; the others were ended with it")


def test_a_log_without_a_failure_tells_none():
    assert failure("all is well\n") is None
