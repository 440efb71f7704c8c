"""gate: does the model keep to the bounds of the project's probes; a file says it, and the build ends by it."""

from __future__ import annotations

import json
from typing import Any

from tunemake import gate
from tunemake.stages import Job
from tunemake.stages.probes import ANSWERS, SCORES, write

VERDICT = "gate.json"


def run(job: Job) -> dict[str, Any]:
    """Write work/gate.json.

    parameters: bounds (name, at_least, at_most, required). inputs: evaluation.
    """
    folder = job.inputs["evaluation"]
    scores, answers = (json.loads((folder / name).read_text("utf-8")) for name in (SCORES, ANSWERS))
    bounds = gate.bounds_of(job.parameters["bounds"])
    found = gate.verdicts(bounds, scores, answers)
    write(job.work / VERDICT, gate.as_json(found))
    return {"passed": gate.passed(found)}
