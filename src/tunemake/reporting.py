"""The stage that tells of a variant: its report and its model cards; pure, as graph is."""

from __future__ import annotations

from collections.abc import Sequence

from tunemake import models, schema
from tunemake.judging import bounds_of, data_file, link, selects
from tunemake.project import SCHEMA, Project
from tunemake.stage import Need, Stage

# What tells how the base model is asked, and what it is; its weights are not read.
_TOLD_OF_BASE = ("model.json", "model/*.json", "model/*.jinja")


def report(project: Project, *, variants: Sequence[str] = (), tokens: bool = True) -> Stage:
    """Give the stage. variants: names of all, which its page compares. tokens: a stage makes them for the training."""
    shape = schema.load_schema(SCHEMA)["properties"]["train"]
    deciding, _ = schema.parted("run", project.train, shape)
    return Stage(
        name="report", kind="report", doc="a page of the model, its training and its data, and the model card",
        parameters={
            "project": project.name, "variant": project.variant.name, "base": project.model["source"],
            "prompt_template": project.model["prompt_template"], "train": deciding,
            "datasets": [{"name": dataset.name, "generator": dataset.generator, "parameters": dict(dataset.parameters)}
                         for dataset in project.datasets],
            "bounds": bounds_of(project) if project.evaluate is not None else [], **project.card,
        },
        runtime={"variants": list(variants)},
        link=link(project, "report"), outputs=("report.html", "README.md"), needs=_needs(project, tokens),
        titles={
            "project": "project.name", "base": "model.source", "prompt_template": "model.prompt_template",
            "bounds": "evaluate.probe",
        },
    )  # fmt: skip


def _needs(project: Project, tokens: bool) -> dict[str, Need]:  # noqa: FBT001
    needs = {
        "base": Need("base", _TOLD_OF_BASE),
        # Shown among what the model was made from; none of their files is read.
        **{f"dataset:{dataset.name}": Need(f"dataset:{dataset.name}", ()) for dataset in project.datasets},
        "data": Need("data", (data_file(project), data_file(project, "held_out"))),
        "config": Need("config", ()),
        **({"tokens": Need("tokens", ())} if tokens else {}),
        "train": Need("train", ("metrics.jsonl", "answers.jsonl")),
    }
    if project.evaluate is not None:
        needs["baseline"] = Need("baseline", ())
    if selects(project):
        needs["select"] = Need("select", ("scores.json",))
    if project.train["method"] != "full":
        needs["adapter"] = Need("adapter", ("adapter_*",))
    needs["merge"] = Need("merge", (models.MODEL_RECORD,))  # which names every file of the model by its digest
    if project.evaluate is not None:
        needs["evaluate"] = Need("evaluate", ("scores.json", "answers.json"))
    return needs
