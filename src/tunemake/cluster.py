"""What Slurm says of jobs, by its own commands; and the note in a work folder that names the job that works there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunemake.digests import replace_text
from tunemake.faults import Fault, StageError

FOLDER = ".slurm"  # in the work folder; hidden, so that it goes when the artifact is done
_NOTE = f"{FOLDER}/job.json"
_LIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
_FIELD = re.compile(r"(?<!\S)([A-Za-z/:]+)=(\S*)")
_UNKNOWN = "Invalid job id"
_TIMEOUT = 60


@dataclass(frozen=True)
class SlurmJob:
    """A job as Slurm shows it.

    state: Slurm's word, such as RUNNING. reason: why it waits. node: where it runs. ran, limit: as Slurm writes times,
    days-hours:minutes:seconds.
    """

    number: str
    name: str
    state: str
    reason: str
    node: str
    ran: str
    limit: str

    @property
    def over(self) -> bool:
        """Whether it runs no more, and will not."""
        return self.state not in _LIVE


def show(number: str) -> SlurmJob | None:
    """Ask for a job; None where Slurm knows none of that number (any more). Raises StageError where it cannot tell."""
    told = _asked("scontrol", "--oneliner", "show", "job", number)
    if told is None:
        return None
    fields = dict(_FIELD.findall(told))
    named = {"name": "JobName", "state": "JobState", "reason": "Reason", "node": "NodeList", "ran": "RunTime"}
    return SlurmJob(number, limit=fields["TimeLimit"], **{key: fields[name] for key, name in named.items()})


def queued() -> dict[str, str]:
    """Give the numbers of the user's jobs that wait or run, by name; raises StageError where Slurm cannot tell."""
    told = _asked("squeue", "--me", "--noheader", "--format=%A %j") or ""
    return {name: number for number, _, name in (line.partition(" ") for line in told.splitlines())}


def address(node: str) -> str:
    """Give the address by which the nodes reach one of them; raises StageError where Slurm cannot tell."""
    fields = dict(_FIELD.findall(_asked("scontrol", "--oneliner", "show", "node", node) or ""))
    if "NodeAddr" not in fields:
        raise StageError(Fault("slurm", f"scontrol tells no address of the node {node}"))
    return str(fields["NodeAddr"])


def end_step(number: str, name: str) -> None:
    """Send SIGTERM to the processes of a job's steps of a name; raises StageError where Slurm cannot."""
    told = _asked("squeue", "--steps", f"--jobs={number}", "--noheader", "--format=%i %j") or ""
    for step in [step for step, _, of in (line.strip().partition(" ") for line in told.splitlines()) if of == name]:
        _asked("scancel", "--quiet", "--signal=TERM", step)


def note(work: Path) -> Mapping[str, Any] | None:
    """Read what was noted of the job that works in a folder; None where none was."""
    try:
        told = json.loads((work / _NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and told.keys() >= {"job", "name"} else None


def write_note(work: Path, number: str, name: str) -> None:
    """Note a job by its number and name."""
    replace_text(work / _NOTE, json.dumps({"job": number, "name": name}))


def drop_note(work: Path) -> None:
    """Forget the job: its end was told."""
    (work / _NOTE).unlink(missing_ok=True)


def live(work: Path) -> str | None:
    """Give the number of the noted job of a folder where it waits or runs; raises StageError where nobody can tell."""
    noted = note(work)
    shown = None if noted is None else show(str(noted["job"]))
    if noted is None or shown is None or shown.over or shown.name != noted["name"]:
        return None
    return shown.number


def _asked(*command: str) -> str | None:
    """Run one of Slurm's commands; give what it prints, None for a job that is not known."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except FileNotFoundError:
        raise StageError(
            Fault("launch.on", f"no {command[0]} here", "a machine that Slurm's jobs are sent from")
        ) from None
    except subprocess.TimeoutExpired:
        raise StageError(Fault("slurm", f"{command[0]} does not answer", next_step="run doit again later")) from None
    if done.returncode == 0:
        return done.stdout
    if _UNKNOWN in done.stderr:
        return None
    raise StageError(
        Fault("slurm", f"{command[0]} cannot tell", got=done.stderr.strip(), next_step="run doit again later")
    )
