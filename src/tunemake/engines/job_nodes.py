"""The nodes of a Slurm job over which a training's processes are started: one torchrun on each, by srun."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunemake import cluster
from tunemake.job_end import WARNING

_STEP = "torchrun"  # the name by which Slurm knows it
# srun reads variables that tell of the step that the stage itself runs in: one node, one task, its cores.
_OF_THE_STEP, _OF_THE_JOB = ("SLURM_", "SRUN_"), {"SLURM_CONF", "SLURM_JOB_ID", "SLURM_JWT", "SLURM_WORKING_CLUSTER"}
# Slurm sends the warning before the time limit to every process of a job, and torchrun would end of it at once.
_SIGNAL = WARNING.removeprefix("SIG")
_ON_A_NODE = f'trap \'\' {_SIGNAL}; PET_NODE_RANK=$SLURM_NODEID exec "$0" "$@"'
_OTHERS_SECONDS = 60  # for the other nodes to end by themselves and tell why; what failed first may be told last


@dataclass(frozen=True)
class JobNodes:
    """All nodes of the job that this process runs in, on the first of them.

    job: its number. host, port: of the first, where the processes meet. cores: of each node's, None where all are.
    """

    job: str
    count: int
    host: str
    port: int
    cores: str | None = None

    def command(self, torchrun: Sequence[str]) -> list[str]:
        """Give the command that runs torchrun on each of them, which may share what the stage's own step holds."""
        srun = ["srun", f"--job-name={_STEP}", "--overlap", f"--nodes={self.count}", f"--ntasks={self.count}"]
        srun += ["--ntasks-per-node=1", "--mpi=none", "--input=none", "--export=ALL", "--label"]
        srun += ["--kill-on-bad-exit=0", f"--wait={_OTHERS_SECONDS}"]
        srun += [] if self.cores is None else [f"--cpus-per-task={self.cores}"]
        return [*srun, "sh", "-c", _ON_A_NODE, *torchrun]

    def meeting(self) -> list[str]:
        """Give what torchrun is told, so that those of all nodes find each other; the shell adds which one it is."""
        return ["--nnodes", str(self.count), "--master-addr", self.host, "--master-port", str(self.port)]

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """Give the environment that srun is started in. around: the stage's own."""
        return {
            name: value for name, value in around.items() if name in _OF_THE_JOB or not name.startswith(_OF_THE_STEP)
        }

    def end(self) -> None:
        """Have the processes end by SIGTERM, as srun would not: it has them killed. Raises StageError."""
        cluster.end_step(self.job, _STEP)


def nodes_of_this_job(count: int, environment: Mapping[str, str]) -> JobNodes:
    """Give the nodes of the job that this process runs in. environment: as Slurm gave it; raises StageError."""
    host = cluster.address(environment["SLURMD_NODENAME"])
    return JobNodes(environment["SLURM_JOB_ID"], count, host, _free_port(), environment.get("SLURM_CPUS_PER_TASK"))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
