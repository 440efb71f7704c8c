"""config: a complete XTuner config, and the same with only the values that decide the weights."""

from __future__ import annotations

import json
from typing import Any

from tunemake.engines import xtuner
from tunemake.faults import Fault, ModelError
from tunemake.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Write work/train.py and work/decides.py.

    parameters: project, seed, model, model_path, data_path (both relative to the project), trust_remote_code,
    prompt_template, data and train (the tables of project.toml).
    """
    model = json.loads((job.inputs["base"] / "model.json").read_text("utf-8"))
    longest, wanted = model["max_length"], job.parameters["data"]["max_length"]
    if longest is not None and wanted > longest:
        fault = Fault("data.max_length", "longer than the model reads", expected=f"at most {longest}", got=str(wanted))
        raise ModelError(fault)
    values = job.parameters
    (job.work / xtuner.CONFIG).write_text(xtuner.render_config(values, job.root), "utf-8")
    decides = xtuner.render_config(xtuner.deciding_values(values), job.root)
    (job.work / xtuner.DECIDES).write_text(decides, "utf-8")
    return {"engine": "xtuner"}
