import signal
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest

from tunemake.engines.job_nodes import JobNodes
from tunemake.engines.launching import Launch

OWN = Path("work/.launcher")


def test_a_single_process_starts_as_it_is():
    launch = Launch()
    assert launch.command("m", ["train", "c"], OWN) == [sys.executable, "-P", "-m", "m", "train", "c"]
    assert launch.environment({"A": "b"}) == {"A": "b"}
    assert launch.failure("whatever") is None


@pytest.mark.parametrize(
    ("launch", "has", "lacks"),
    [
        (Launch(2, gpu=True), ["--nproc-per-node 2", "--launcher pytorch"], ["gloo", "--deepspeed"]),
        (Launch(2), ["backend=gloo", "device_ids=None"], ["--deepspeed"]),
        (Launch(1, gpu=True, deepspeed=Path("d.json")), ["--nproc-per-node 1", "--deepspeed d.json"], ["gloo"]),
    ],
)
def test_several_processes_start_through_torchrun(launch, has, lacks):
    told = " ".join(launch.command("m", ["train", "c"], OWN))
    assert "-m torch.distributed.run --standalone" in told
    assert all(part in told for part in has)
    assert not any(part in told for part in lacks)


NODES = JobNodes("7", count=2, host="gpu01", port=29000, cores="8")


def test_several_nodes_start_a_torchrun_each_through_srun():
    launch = Launch(4, gpu=True, nodes=NODES)
    assert launch.world == 8
    command = launch.command("m", ["train", "c"], OWN)
    srun, (shell, *torchrun) = command[: command.index("sh")], command[command.index("-c") + 1 :]
    assert srun[0] == "srun"
    assert {"--overlap", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8"} <= set(srun)
    told = " ".join(torchrun)
    assert "torch.distributed.run --nnodes 2 --master-addr gpu01 --master-port 29000 --nproc-per-node 4" in told
    assert "--standalone" not in told
    # The shell's own work: the node's number, and no end by the warning of the time limit.
    script = "import os, signal; print(os.environ['PET_NODE_RANK'], signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN)"
    environment = {"SLURM_NODEID": "1", "PATH": "/usr/bin:/bin"}
    run = ["sh", "-c", shell, sys.executable, "-c", script]
    assert subprocess.run(run, env=environment, capture_output=True, check=True, text=True).stdout == "1 True\n"


def test_srun_is_told_nothing_of_the_step_that_the_stage_runs_in():
    around = {"SLURM_NNODES": "1", "SLURM_CPU_BIND": "mask_cpu:0x1", "SRUN_CPUS_PER_TASK": "1", "PATH": "/bin"}
    kept = {"SLURM_JOB_ID": "7", "SLURM_CONF": "/c", "PATH": "/bin", "PYTHONSAFEPATH": "1"}
    own = {**kept, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "45"}
    assert Launch(nodes=NODES).environment({**around, **own}) == own
    assert Launch(nodes=NODES).environment({**around, **kept}) == {**kept, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "100"}


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
    fault = Launch(2).failure(done.stderr)
    assert fault is not None
    assert fault.what.startswith(told)
    assert fault.what.endswith("; the others were ended with it")


def fails(seconds, rank, code):
    return f"""\
Root Cause (first observed failure):
[0]:
  time      : 2026-11-29_16:00:{seconds:02}
  host      : gpu0{rank}
  rank      : {rank} (local_rank: 0)
  exitcode  : {code} (pid: 1)
""".splitlines()


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        # What was killed comes before what lost it, however the lines of both come in.
        ([fails(5, 0, 1), fails(5, 1, -9)], "process 1 on gpu01 was killed (signal 9), most often for want of memory"),
        ([["[rank0]: ValueError: no", *fails(4, 0, 1)], fails(5, 1, 1)], "process 0 on gpu00 failed: ValueError: no"),
        ([fails(9, 0, -6), ["[rank1]: KeyError: 'x'", *fails(5, 1, 1)]], "process 1 on gpu01 failed: KeyError: 'x'"),
        ([["Traceback"], fails(5, 1, 3)], "process 1 on gpu01 failed: exit code 3"),
    ],
)
def test_the_first_failure_of_all_nodes_is_told(nodes, told):
    lines = [[f"{number}: {line}" for line in node] for number, node in enumerate(nodes)]
    mixed = [line for pair in zip_longest(*lines) for line in pair if line is not None]
    fault = Launch(nodes=NODES).failure("\n".join([*mixed, "srun: error: n2: task 1: Exited with exit code 1"]))
    assert fault is not None
    assert fault.what == f"{told}; the others were ended with it"


def test_a_log_without_a_failure_tells_none():
    assert Launch(2).failure("all is well\n") is None
    assert Launch(nodes=NODES).failure("0: all is well\n") is None
