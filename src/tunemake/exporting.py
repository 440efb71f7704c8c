"""The stage that writes the merged model in other formats, where the project declares some; pure, as graph is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunemake import models
from tunemake.export_formats import exported_files
from tunemake.judging import link
from tunemake.project import Project
from tunemake.stage import MODEL, Need, Stage


def export(project: Project, template: Mapping[str, Any]) -> Stage:
    """Give the stage; it waits for the gate, where there is one."""
    assert project.export is not None
    needs = {"merged": Need("merge", without=(models.MODEL_RECORD,))}
    if template.get("from_tokenizer"):
        needs["base"] = MODEL  # its own chat template
    if project.evaluate is not None:
        needs["gate"] = Need("gate", ())  # what it says decides whether, not what
    return Stage(
        name="export", kind="export", doc="the merged model in the formats of [export]",
        parameters={
            **project.export, "system": project.export.get("system"), "project": project.name,
            "prompt_template": dict(template),
        },
        link=link(project, "export"), outputs=exported_files(project.export["formats"], project.name), needs=needs,
        titles={
            **{name: f"export.{name}" for name in project.export}, "system": "export.system", "project": "project.name",
            "prompt_template": "model.prompt_template",
        },
    )  # fmt: skip
