"""The process of a stage: reads the job, runs the stage, leaves its facts or its faults behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path

from tunemake.faults import Fault, StageError, TunemakeError
from tunemake.stages import DONE, FAULTS, JOB, Job


def main() -> int:
    """Run `STAGE FOLDER`; exit code 0 with .done.json, 1 with .faults.json, or a traceback."""
    stage, work = sys.argv[1], Path(sys.argv[2])
    _end_with_parent()
    told = json.loads((work / JOB).read_text("utf-8"))
    job = Job(
        root=Path(told["root"]), work=work, parameters=told["parameters"], runtime=told["runtime"],
        inputs={role: Path(folder) for role, folder in told["inputs"].items()},
    )  # fmt: skip
    try:
        facts = importlib.import_module(f"tunemake.stages.{stage}").run(job)
    except (TunemakeError, OSError) as raised:
        error = raised if isinstance(raised, TunemakeError) else _told(stage, raised)
        if error is not raised:
            traceback.print_exc()  # into the stage's log
        faults = [asdict(fault) for fault in error.faults]
        (work / FAULTS).write_text(json.dumps({"exit_code": error.exit_code, "faults": faults}), "utf-8")
        print(error, file=sys.stderr)  # noqa: T201 - this process's stderr is the stage's log
        return 1
    (work / DONE).write_text(json.dumps(facts or {}), "utf-8")
    return 0


def _told(stage: str, error: OSError) -> StageError:
    """Tell what the system refused: a full disk, a read-only folder, a mount that is gone."""
    what = error.strerror or str(error)
    return StageError(Fault(stage, what, got=None if error.filename is None else str(error.filename)))


def _end_with_parent() -> None:
    """End this process's group when the build goes, however it goes: its end of our standard input then closes."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    # Whatever runs below inherits the variable, but is no leader of a group. That the build is our parent is not asked:
    # it may be gone already.
    if "TUNEMAKE_BUILD" in os.environ and os.getpgrp() == os.getpid():
        threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
