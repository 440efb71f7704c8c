"""report: one page that shows the model, its training and what it was made from, and the model cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunemake.artifacts import read_record
from tunemake.chat_templates import resolved
from tunemake.comparison import compared
from tunemake.engines import sizing
from tunemake.reports import lineage, run_figures
from tunemake.reports.card import Told, card, files_of
from tunemake.reports.variant_page import Shown, variant_page
from tunemake.stages import Job
from tunemake.stages.data import HELD_OUT, TRAIN, samples_file

PAGE, CARD, ADAPTER_CARD = "report.html", "README.md", "adapter/README.md"


def run(job: Job) -> dict[str, Any]:
    """Write work/report.html, work/README.md, the merged model's card, and work/adapter/README.md where there is one.

    parameters: project, variant, base (its source), datasets (name, generator, parameters), bounds (as the gate's),
    train (the table), prompt_template (its name); where there are: license, languages, base_model (its name on a hub).
    runtime: variants, their names, which the page compares as they are now; may be absent.
    inputs: train, data, base, merge; where there are: select, evaluate, adapter, tokens. Any more are shown among
    what the model was made from.
    """
    given = job.inputs
    chosen = sizing.parts(read_record(given["config"])) if "config" in given else {}
    own = {**job.parameters, "train": job.parameters["train"] | chosen}
    evaluation = run_figures.evaluation(given.get("evaluate"), own["bounds"])
    merge = read_record(given["merge"]) or {}
    template = resolved(merge["parameters"]["prompt_template"], given["base"] / "model")
    base = json.loads((given["base"] / "model.json").read_text("utf-8"))
    data = _data(job, template, evaluation, chosen)
    nodes = lineage.lineage(given)
    variants = job.runtime.get("variants", [])
    onto = run_figures.merged_onto(own["train"]["method"], merge["facts"])
    shown = Shown(
        parameters=own, base=base, data=data, evaluation=evaluation,
        training=run_figures.training(given["train"], given.get("tokens")),
        checkpoints=run_figures.checkpoints(given.get("select")), nodes=nodes,
        history=lineage.history(job.root / "build" / "log.jsonl", nodes),
        variants=[asdict(row) for row in compared(job.root, variants)] if len(variants) > 1 else [],
        onto=onto,
    )  # fmt: skip
    (job.work / PAGE).write_text(variant_page(shown), "utf-8")
    told = Told(own, base, data, run_figures.asked(template), evaluation,
                files_of(given["merge"], merge), onto)  # fmt: skip
    (job.work / CARD).write_text(card(told, adapter=False), "utf-8")
    if "adapter" in given:
        _adapter_card(job.work, given["adapter"], told)
    return {"passed": None if evaluation is None else evaluation["passed"]}


def _adapter_card(work: Path, adapter: Path, told: Told) -> None:
    path = work / ADAPTER_CARD
    path.parent.mkdir(exist_ok=True)
    files = files_of(adapter, read_record(adapter) or {"outputs": {}})
    path.write_text(card(replace(told, files=files), adapter=True), "utf-8")


def _data(
    job: Job, template: Mapping[str, Any], evaluation: Mapping[str, Any] | None, chosen: Mapping[str, Any]
) -> dict[str, Any]:
    folder = job.inputs["data"]
    count = (read_record(folder) or {})["facts"][TRAIN]["samples"]
    probes = {probe["name"]: probe["asked"] for probe in (evaluation or {"probes": []})["probes"]}
    trained = {**(read_record(job.inputs["train"]) or {})["parameters"], **chosen}
    return run_figures.data(samples_file(folder, TRAIN), count, samples_file(folder, HELD_OUT),
                            job.inputs["base"] / "model", template, trained, probes)  # fmt: skip
