"""A training in several processes, or under DeepSpeed: how torchrun starts it, and what is told when it fails."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunemake.faults import Fault

# mmengine hands its wrapper a device's number, which a wrapper of modules on the CPU refuses.
_ON_CPU = (
    "env_cfg.dist_cfg.backend=gloo", "model_wrapper_cfg.type=MMDistributedDataParallel",
    "model_wrapper_cfg.device_ids=None", "model_wrapper_cfg.broadcast_buffers=False",
)  # fmt: skip
_CAUSE = re.compile(r"^\[rank(\d+)\]: (\w[\w.]*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE)
_FIRST = re.compile(
    r"Root Cause \(first observed failure\):\s+\[\d+\]:.*?rank\s*: (\d+) .*?exitcode\s*: (-?\d+)", re.DOTALL
)


@dataclass(frozen=True)
class Launch:
    """How a training starts. processes: on this machine. gpu: each has one. deepspeed: the file of its settings."""

    processes: int = 1
    gpu: bool = False
    deepspeed: Path | None = None

    @property
    def together(self) -> bool:
        """Whether processes have to find each other; DeepSpeed wants that of a single one too."""
        return self.processes > 1 or self.deepspeed is not None

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """Give the command that runs a module of XTuner's training."""
        if not self.together:
            return [sys.executable, "-P", "-m", module, *arguments]
        torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
        torchrun += ["--nproc-per-node", str(self.processes), "-m", module, *arguments, "--launcher", "pytorch"]
        if self.deepspeed is not None:
            torchrun += ["--deepspeed", str(self.deepspeed)]
        return torchrun if self.gpu else [*torchrun, "--cfg-options", *_ON_CPU]

    def environment(self) -> dict[str, str]:
        """Give what the environment says to all of the processes."""
        told = {"PYTHONSAFEPATH": "1"} if self.together else {}
        return told if self.gpu or self.deepspeed is None else {**told, "DS_ACCELERATOR": "cpu"}


def failure(log: str) -> Fault | None:
    """Say which of several processes failed first, and of what; None where the log does not tell."""
    first = _FIRST.findall(log)
    if not first:
        return None
    rank, code = int(first[-1][0]), int(first[-1][1])
    others = "the others were ended with it"
    if code == -signal.SIGKILL:
        return Fault("train", f"process {rank} was killed (signal 9), most often for want of memory; {others}")
    if code < 0:
        return Fault("train", f"process {rank} was ended by signal {-code}; {others}")
    causes = [cause for number, cause in _CAUSE.findall(log) if int(number) == rank]
    return Fault("train", f"process {rank} failed: {causes[-1] if causes else f'exit code {code}'}; {others}")
