"""A stage as a job of a Slurm cluster: submitted through submitit, found again by its fingerprint, waited for."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunemake import cluster, slurm_job
from tunemake.engines import xtuner
from tunemake.faults import Fault, StageError, StoppedError
from tunemake.job_end import RAISE, cause, told
from tunemake.job_request import job_name, lacking, parameters
from tunemake.process import Event, Tail, outcome, prepare, stopping
from tunemake.shares import Share
from tunemake.stages import DONE, EVENTS, Job
from tunemake.store import locked

_LOOK_SECONDS, _FIRST_ASK, _LAST_ASK = 0.2, 0.5, 10.0
_SETTLE_SECONDS = 60.0  # until another machine's files are seen here, as network file systems remember names
Watch = Callable[[Event], None]


class Slurm:
    """Runs a stage as a job, as process.run_stage runs it here.

    told: the project's [launch.slurm] table. name: what messages call the stage. nodes: that its job takes.
    """

    def __init__(self, told: Mapping[str, Any], name: str, nodes: int = 1) -> None:
        self._told, self._name, self._nodes = told, name, nodes

    def holds(self, work: Path) -> bool:
        """Say whether a job works in a folder or has ended there and nobody was told: what lies there is its own."""
        return self._found(work) is not None

    def run(self, stage: str, job: Job, share: Share, watch: Watch) -> dict[str, Any]:
        """Run a stage over its job, as run_stage does; a job that an earlier build left is waited for instead.

        Raises InputError or StageError with the stage's faults or what ended the job, and StoppedError after SIGINT or
        SIGTERM: the job then runs on.
        """
        with stopping():
            number = self._found(job.work)
            if number is not None:
                watch({"say": f"{self._name}: job {number} of an earlier build is found again"})
                facts, ended = self._ended(stage, number, job, watch)
                if facts is not None:
                    return facts
                watch({"say": f"{self._name}: {ended.what}; a new job takes its place"})
            number = self._submitted(stage, job, share, watch)
            facts, ended = self._ended(stage, number, job, watch)
        if facts is not None:
            return facts
        raise StageError(ended)

    def _ended(self, stage: str, number: str, job: Job, watch: Watch) -> tuple[dict[str, Any] | None, Fault]:
        """Wait for a job's end; give what its stage told, or what ended it from outside."""
        try:
            with stopping():
                shown = _followed(self._name, number, job.work, watch)
        except StoppedError as error:
            step = f"job {number} runs on: the next doit waits for it, scancel {number} ends it"
            raise StoppedError(replace(error.faults[0], next_step=step), error.signal_number) from None
        status = _settled(job.work, number, shown)
        why = cause(shown, status)
        cluster.drop_note(job.work)
        if why is None:
            return outcome(stage, status["code"], job), Fault(self._name, "done")
        return None, Fault(self._name, told(number, why, shown, status), next_step=_next_step(job.work, number, why))

    def _found(self, work: Path) -> str | None:
        """Give the number of a work folder's job, by its note or by its name in the queue; None where there is none."""
        name = job_name(work)
        noted = cluster.note(work)
        if noted is not None and noted["name"] == name:  # else the folder was copied
            return str(noted["job"])
        number = cluster.queued().get(name)
        if number is not None:  # its build was killed between submitting and noting
            _hand_over(work, number)
            cluster.write_note(work, number, name)
        return number

    def _submitted(self, stage: str, job: Job, share: Share, watch: Watch) -> str:
        """Submit a stage; give the job's number."""
        if missing := lacking(sys.executable):
            raise StageError(missing)
        import submitit

        prepare(job)
        folder, name = job.work / cluster.FOLDER, job_name(job.work)
        shutil.rmtree(folder, ignore_errors=True)
        executor = submitit.SlurmExecutor(folder, python=f"{shlex.quote(sys.executable)} -P")
        executor.update_parameters(**parameters(self._told, name, job.root, self._nodes))
        with self._turn(job.work, watch), _outside_of_jobs(), redirect_stderr(io.StringIO()) as refusal:
            try:
                sent = executor.submit(slurm_job.run, stage, str(job.work), share[0], resumes=stage == "train")
            except submitit.core.utils.FailedJobError:
                raise StageError(_refused(refusal.getvalue())) from None
        cluster.write_note(job.work, sent.job_id, name)
        watch({"say": f"{self._name}: job {sent.job_id} is submitted"})
        return str(sent.job_id)

    @contextmanager
    def _turn(self, work: Path, watch: Watch) -> Iterator[None]:
        """Wait until one more of the build's jobs may be in the queue; until the block ends nobody else submits one."""
        bound, spoken = self._told.get("jobs"), False
        while True:
            with locked(work.parent / ".slurm.lock", fcntl.LOCK_EX):
                family = job_name(work).removesuffix(work.name)
                if bound is None or sum(name.startswith(family) for name in cluster.queued()) < bound:
                    yield
                    return
            if not spoken:
                watch({"say": f"waiting: {bound} jobs are in the queue (launch.slurm.jobs)"})
                spoken = True
            time.sleep(_FIRST_ASK)


def refuse_its_job(stage: str, work: Path) -> None:
    """Refuse to work here in a folder that a job works in; raises StageError."""
    number = cluster.live(work)
    if number is not None:
        step = f'launch.on = "slurm" waits for it, scancel {number} ends it'
        raise StageError(Fault(stage, f"job {number} of Slurm works on it", next_step=step))
    cluster.drop_note(work)


def _followed(name: str, number: str, work: Path, watch: Watch) -> cluster.SlurmJob | None:
    """Show a job's events until it is over; give it as Slurm then shows it, None where that knows it no more."""
    tail, before, asked, pause = Tail(work / EVENTS), "", 0.0, _FIRST_ASK
    while True:
        for event in tail.new_events():
            watch(event)
        ended = "code" in slurm_job.status(work, number)
        if time.monotonic() - asked > (_FIRST_ASK if ended else pause):
            asked, pause = time.monotonic(), min(pause * 1.5, _LAST_ASK)
            try:
                shown = cluster.show(number)
                if shown is None or shown.over or shown.name != job_name(work):
                    break
                line = _standing(shown)
            except StageError as error:  # it may be starting anew; the job runs on
                line = str(error)
            if line != before and not ended:
                before = line
                watch({"say": f"{name}: {line}"})
        time.sleep(_LOOK_SECONDS)
    for event in tail.new_events():
        watch(event)
    return shown if shown is not None and shown.name == job_name(work) else None


def _standing(shown: cluster.SlurmJob) -> str:
    if shown.state == "RUNNING":
        return f"job {shown.number} runs on {shown.node}"
    why = "" if shown.reason == "None" else f", {shown.reason}"
    return f"job {shown.number} waits ({shown.state.lower()}{why})"


def _settled(work: Path, number: str, shown: cluster.SlurmJob | None) -> dict[str, Any]:
    """Read how a job ended; where Slurm says that it did well, its files are waited for."""
    end = time.monotonic() + (_SETTLE_SECONDS if shown is not None and shown.state == "COMPLETED" else 0)
    while True:
        status = slurm_job.status(work, number)
        if ("code" in status and (status["code"] or (work / DONE).exists())) or time.monotonic() >= end:
            return status
        time.sleep(_LOOK_SECONDS)


def _next_step(work: Path, number: str, why: str) -> str:
    output = work / cluster.FOLDER / f"{number}_0_log.out"
    if why in {"FAILED", "COMPLETED"}:  # and its stage did not come to its end
        return f"its output: {output}" if output.exists() else f"no node could write {output}"
    kept = xtuner.checkpoints(work)
    goes_on = f"the next build goes on from {kept[-1].stem}" if kept else "the next build begins it anew"
    return f"{RAISE[why]}, or build again: {goes_on}" if why in RAISE else goes_on


def _hand_over(work: Path, number: str) -> None:
    """Give a job what submitit would have given it, had its build lived: the file that says what to run."""
    for path in (work / cluster.FOLDER).glob("*.pkl"):
        if re.fullmatch(r"[0-9a-f]{32}", path.stem):
            path.rename(path.with_name(f"{number}_submitted.pkl"))


def _refused(refusal: str) -> Fault:
    lines = [line.split("error: ", 1)[-1] for line in refusal.splitlines() if "error: " in line]
    return Fault("launch.slurm", "sbatch refuses the job", got="; ".join(lines) or refusal.strip())


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Submit as from outside of any job, though the build itself may run in one; Slurm's configuration stays."""
    from submitit.helpers import clean_env

    place = os.environ.get("SLURM_CONF")
    with clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
        if place is not None:
            os.environ["SLURM_CONF"] = place
        yield
