"""How a Slurm job ended, in words: what Slurm says of it and what it noted itself; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunemake.cluster import SlurmJob

WARNING = "SIGUSR2"  # the signal that Slurm is told to send before the time limit; no other tool's
_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")
_WORDS = {
    "CANCELLED": "was cancelled (scancel)",
    "OUT_OF_MEMORY": "was ended for want of memory (Slurm's limit)",
    "PREEMPTED": "had to make room for another (preempted)",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "lost its node, which did not start",
    "DEADLINE": "passed its deadline",
    "REVOKED": "was revoked by its cluster",
}
RAISE = {"TIMEOUT": "raise time in [launch.slurm]", "OUT_OF_MEMORY": "raise mem in [launch.slurm] options"}


def cause(job: SlurmJob | None, status: Mapping[str, Any]) -> str | None:
    """Name what ended a job beside its own stage, as one of Slurm's states; None where its stage ended by itself.

    job: as Slurm shows it, None where it knows it no more. status: what the job noted of its end.
    """
    if status.get("code") == 0:
        return None
    state = "" if job is None else job.state
    if state in {"TIMEOUT", *_WORDS}:
        return state
    if WARNING in status.get("signals", ()):
        return "TIMEOUT"  # it ended before Slurm had to end it
    if "code" not in status or "SIGTERM" in status["signals"]:
        return state or "GONE"
    return None


def told(number: str, why: str, job: SlurmJob | None, status: Mapping[str, Any]) -> str:
    """Say it in a line. why: as cause gives it."""
    return f"job {number} {_what(why, job, status)}"


def _what(why: str, job: SlurmJob | None, status: Mapping[str, Any]) -> str:
    if why == "TIMEOUT":
        return "ran over its time limit" + ("" if job is None else f" of {spoken(job.limit)}")
    if why in _WORDS:
        return _WORDS[why] + ("" if job is None else f" {_after(job.ran)}")
    if "SIGTERM" in status.get("signals", ()):
        return "was ended by SIGTERM, and Slurm does not say why"
    if why == "GONE":
        return "is gone, and neither Slurm nor the job says why"
    return f"ended before its stage did ({why.lower()})"


def spoken(time: str) -> str:
    """Say a time of Slurm's, days-hours:minutes:seconds, as a person would."""
    match = _TIME.fullmatch(time)
    if match is None:
        return time
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    named = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(named[:2]) or "0 s"


def _after(ran: str) -> str:
    spent = spoken(ran)
    return "before it began" if spent == "0 s" else f"after {spent}"
