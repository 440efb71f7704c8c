"""How many devices [launch] gives a training, and whether its values fit each other; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tunemake.faults import Fault

_GPUS = re.compile(r"(?:[^:,]+:)*(\d+)|[^:,]+")  # a number, a type, or types and a number


def launch_faults(launch: Mapping[str, Any], where: str) -> Iterator[tuple[tuple[str, ...], Fault]]:
    """Give each fault with the path of its value. launch: the table with its defaults; where: the file's name."""
    if launch["on"] != "slurm":
        if launch["nodes"] > 1:
            step = 'set on = "slurm" in [launch]'
            yield ("launch", "nodes"), Fault(where, "launch.nodes: more than one, without Slurm", next_step=step)
        return
    there, wanted = gpus_asked(launch["slurm"].get("gpus", 0)), launch["gpus"]
    if there is not None and 0 < there < wanted:
        each = " on each node" if launch["nodes"] > 1 else ""
        yield (
            ("launch", "slurm", "gpus"),
            Fault(where, "launch.slurm.gpus: fewer than launch.gpus", f"at least {wanted}{each}", str(there)),
        )


def devices(launch: Mapping[str, Any]) -> int:
    """Give how many devices a training takes on all of its nodes. launch: the table, or parameters of a stage."""
    return int(launch.get("gpus", 1) * launch.get("nodes", 1))


def gpus_asked(told: int | str) -> int | None:
    """Give the number of GPUs of what sbatch is asked for, such as 2, "a100:2" or "a100"; None for what is neither."""
    parts = [_GPUS.fullmatch(part) for part in str(told).split(",")]
    return sum(int(part[1] or 1) for part in parts if part) if all(parts) else None
