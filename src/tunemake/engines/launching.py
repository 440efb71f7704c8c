"""A training in several processes, or under DeepSpeed: how torchrun starts it, and what is told when it fails."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunemake.engines.job_nodes import JobNodes
from tunemake.faults import Fault

# mmengine hands its wrapper a device's number, which a wrapper of modules on the CPU refuses.
_ON_CPU = (
    "env_cfg.dist_cfg.backend=gloo", "model_wrapper_cfg.type=MMDistributedDataParallel",
    "model_wrapper_cfg.device_ids=None", "model_wrapper_cfg.broadcast_buffers=False",
)  # fmt: skip
_SAVING = "100"  # seconds that torchrun, as of torch 2.12, leaves a job of Slurm for its last checkpoint; 30 by itself
_CAUSE = re.compile(r"^\[rank(\d+)\]: (\w[\w.]*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE)
_FIRST = re.compile(
    r"Root Cause \(first observed failure\):\s+\[\d+\]:\s+time\s*: (\S+)\s+host\s*: (\S+)\s+"
    r"rank\s*: (\d+) .*?exitcode\s*: (-?\d+)",
    re.DOTALL,
)
_OF_A_NODE = re.compile(r"^(\d+): ?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Launch:
    """How a training starts.

    processes: on each node. gpu: each has one. deepspeed: the file of its settings. nodes: of a Slurm job; None: it
    runs on this machine alone.
    """

    processes: int = 1
    gpu: bool = False
    deepspeed: Path | None = None
    nodes: JobNodes | None = None

    @property
    def world(self) -> int:
        """The number of all processes."""
        return self.processes * (1 if self.nodes is None else self.nodes.count)

    @property
    def together(self) -> bool:
        """Whether processes have to find each other; DeepSpeed wants that of a single one too."""
        return self.world > 1 or self.deepspeed is not None

    def command(self, module: str, arguments: Sequence[str], own: Path) -> list[str]:
        """Give the command that runs a module of XTuner's training. own: a folder for what torchrun writes itself."""
        if not self.together:
            return [sys.executable, "-P", "-m", module, *arguments]
        meeting = ["--standalone"] if self.nodes is None else self.nodes.meeting()
        torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", *meeting]
        torchrun += ["--nproc-per-node", str(self.processes), "--log-dir", str(own)]
        torchrun += ["-m", module, *arguments, "--launcher", "pytorch"]
        if self.deepspeed is not None:
            torchrun += ["--deepspeed", str(self.deepspeed)]
        torchrun += [] if self.gpu else ["--cfg-options", *_ON_CPU]
        return torchrun if self.nodes is None else self.nodes.command(torchrun)

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """Give the environment of all of the processes. around: the stage's own."""
        told = dict(around) if self.nodes is None else self.nodes.environment(around)
        if self.together:
            told["PYTHONSAFEPATH"] = "1"
            told.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SAVING)
        return told if self.gpu or self.deepspeed is None else {**told, "DS_ACCELERATOR": "cpu"}

    def failure(self, log: str) -> Fault | None:
        """Say which of several processes failed first, and of what; None where the log does not tell."""
        if not self.together:
            return None
        return _failure([log]) if self.nodes is None else _failure(list(_by_node(log)), of_nodes=True)


def _failure(logs: Sequence[str], *, of_nodes: bool = False) -> Fault | None:
    """Say it from the logs of all nodes, in each of which torchrun tells the first failure of that node.

    What loses its peer fails within the same second, as torchrun counts time; what was killed did not.
    """
    last = [found[-1] for log in logs if (found := _FIRST.findall(log))]
    if not last:
        return None
    _, host, rank, code = min(((time, host, int(rank), int(code)) for time, host, rank, code in last), key=_order)
    process, others = f"process {rank}{f' on {host}' * of_nodes}", "the others were ended with it"
    if code == -signal.SIGKILL:
        return Fault("train", f"{process} was killed (signal 9), most often for want of memory; {others}")
    if code < 0:
        return Fault("train", f"{process} was ended by signal {-code}; {others}")
    causes = [cause for log in logs for number, cause in _CAUSE.findall(log) if int(number) == rank]
    return Fault("train", f"{process} failed: {causes[-1] if causes else f'exit code {code}'}; {others}")


def _order(failed: tuple[str, str, int, int]) -> tuple[str, bool]:
    time, _, _, code = failed
    return time, code > 0


def _by_node(log: str) -> Iterator[str]:
    """Part what srun wrote with the number of the node before each line."""
    lines = _OF_A_NODE.findall(log)
    for node in dict.fromkeys(number for number, _ in lines):
        yield "\n".join(line for number, line in lines if number == node)
