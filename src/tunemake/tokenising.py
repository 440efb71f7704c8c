"""The stage that makes the training's tokens; pure, as graph is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunemake.engines import xtuner
from tunemake.judging import data_file, link
from tunemake.project import Project
from tunemake.stage import TOKENIZER, Need, Stage


def tokens_file(project: Project) -> str:
    """Give the path, from the project's folder, of the file that the training reads."""
    return f"{link(project, 'tokens')}/{xtuner.TOKENS}"


def tokens(project: Project, template: Mapping[str, Any]) -> Stage:
    """Give the stage. template: the prompt template that the project names."""
    packing = project.data["packing"]
    return Stage(
        name="tokens", kind="tokens", doc="training samples as token ids, cut and packed",
        parameters={
            "max_length": project.data["max_length"], "packing": packing,
            "seed": project.seed if packing else None,  # of the shuffle before packing
            # No answer ends by stop words while it is trained.
            "prompt_template": {**template, "stop_words": []},
            "trust_remote_code": project.model["trust_remote_code"],
        },
        link=link(project, "tokens"), outputs=(xtuner.TOKENS,),
        needs={"base": TOKENIZER, "data": Need("data", (data_file(project),))},
        titles={
            "max_length": "data.max_length", "packing": "data.packing", "seed": "project.seed",
            "prompt_template": "model.prompt_template", "trust_remote_code": "model.trust_remote_code",
        },
    )  # fmt: skip
