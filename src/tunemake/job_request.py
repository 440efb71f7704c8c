"""What a stage's job asks of Slurm: its name, its options, its warning; and what it takes to ask for it here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemake.digests import sha256_of_bytes
from tunemake.distributions import installed_version
from tunemake.faults import Fault
from tunemake.job_end import WARNING

_OWN = ("partition", "time", "gpus", "constraint")
_UNITS = (86_400, 3_600, 60, 1)


def lacking(python: str) -> Fault | None:
    """Tell what keeps jobs from being sent from here, or None. python: the command of this one."""
    if shutil.which("sbatch") is None:
        return Fault("launch.on", "no sbatch here", "a machine that Slurm's jobs are sent from")
    if installed_version("submitit") is None:
        step = f"{python} -m pip install 'tunemake[slurm]'"
        return Fault("launch.on", "submitit is not installed", next_step=step)
    return None


def job_name(work: Path) -> str:
    """Give the name of a work folder's job: the stage's fingerprint, and which build it is of."""
    return f"tunemake-{sha256_of_bytes(str(work.parent.resolve()).encode())[:8]}-{work.name}"


def parameters(told: Mapping[str, Any], name: str, root: Path, nodes: int = 1) -> dict[str, Any]:
    """Give what submitit is told of a job. told: [launch.slurm]; root: the project's folder.

    nodes: that it takes. The stage's process runs on the first; what it starts on all of them shares what it holds.
    """
    asked = {key: told[key] for key in _OWN if key in told}
    step: list[str] = []
    if nodes > 1:
        asked |= {"nodes": nodes, "ntasks-per-node": 1}
        asked |= {"gpus-per-node": asked.pop("gpus")} if "gpus" in asked else {}
        step = ["--nodes=1", "--ntasks=1", "--relative=0", "--overlap"]
    wanted = {"requeue": "no-requeue" not in told["options"], **asked, **told["options"]}
    more = {key: value for key, value in wanted.items() if value is not False}
    limit = seconds_of(more.get("time"))
    warning = told["warning"] if limit is None else max(1, min(told["warning"], limit // 4))
    cores = more.get("cpus-per-task")  # srun no longer takes it over from sbatch
    step += [f"--cpus-per-task={cores}"] if cores else []
    return {
        "job_name": name, "stderr_to_stdout": True, "srun_args": step,
        "time": None, "wckey": None,  # submitit's own defaults: five minutes, and its name
        "additional_parameters": {"chdir": str(root), "signal": f"{WARNING.removeprefix('SIG')}@{warning}", **more},
    }  # fmt: skip


def seconds_of(limit: Any) -> int | None:
    """Give the seconds of a time limit as sbatch reads it; None where there is none, or none in numbers."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if match is None:
        return None
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    # Behind days come hours; without, two parts are minutes and seconds, and one is minutes.
    first = 1 if days is not None or len(parts) == 3 else 2  # noqa: PLR2004 - hours:minutes:seconds
    return int(days or 0) * _UNITS[0] + sum(part * unit for part, unit in zip(parts, _UNITS[first:], strict=False))
