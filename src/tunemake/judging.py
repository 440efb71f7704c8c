"""The stages that judge a model by the project's probes: baseline, select, evaluate and gate; pure, as graph is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunemake import models
from tunemake.project import Project
from tunemake.stage import CHECKPOINTS, MODEL, Need, Stage

_OF_BOUNDS = ("at_least", "at_most", "required")


def link(project: Project, name: str) -> str:
    """Give the link that shows an artifact of a project's variant."""
    return f"build/{project.variant.name}/{name}"


def data_file(project: Project, part: str = "train") -> str:
    """Name the file of training samples, or of held_out ones."""
    return f"{part}.{project.data['format']}"


def selects(project: Project) -> bool:
    """Say whether the model is chosen among the checkpoints; else it is the last one."""
    return project.evaluate is not None and project.evaluate["select"] == "earliest"


def _scoring(project: Project, template: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a stage that scores a model by the project's probes; their bounds are not among them."""
    assert project.evaluate is not None
    told = [
        {name: value for name, value in probe.items() if name not in _OF_BOUNDS} for probe in project.evaluate["probe"]
    ]
    prompts = [probe["prompts"] for probe in told if isinstance(probe.get("prompts"), str)]
    return {
        "parameters": {
            "probes": told, "max_new_tokens": project.evaluate["max_new_tokens"], "seed": project.seed,
            "max_length": project.data["max_length"], "prompt_template": dict(template),
            "trust_remote_code": project.model["trust_remote_code"],
        },
        "runtime": {"plugins": list(project.plugins)},
        "asked": tuple(told),
        "sources": tuple(dict.fromkeys(prompts)),
        "titles": {"probes": "evaluate.probe", "max_new_tokens": "evaluate.max_new_tokens", "seed": "project.seed",
                   "max_length": "data.max_length", "bounds": "evaluate.probe", "order": "evaluate.order"},
    }  # fmt: skip


def bounds_of(project: Project) -> list[dict[str, Any]]:
    """Give the bounds of the project's probes, as gate.bounds_of takes them."""
    assert project.evaluate is not None
    return [
        {name: probe[name] for name in ("name", *_OF_BOUNDS) if name in probe} for probe in project.evaluate["probe"]
    ]


def _samples(project: Project) -> Need:
    return Need("data", (data_file(project), data_file(project, "held_out")))


def baseline(project: Project, template: Mapping[str, Any]) -> Stage:
    """Give the stage that asks the base model, once for all trainings."""
    return Stage(
        name="baseline", kind="baseline", doc="the base model's answers and scores",
        link=link(project, "baseline"), outputs=("answers.json", "scores.json"),
        needs={"base": MODEL, "data": _samples(project)}, **_scoring(project, template),
    )  # fmt: skip


def select(project: Project, template: Mapping[str, Any]) -> Stage:
    """Give the stage that chooses a checkpoint."""
    assert project.evaluate is not None
    fields = _scoring(project, template)
    fields["parameters"] |= {
        "bounds": bounds_of(project), "order": project.evaluate.get("order", []), "method": project.train["method"],
        "lora": {} if project.train["method"] == "full" else dict(project.train["lora"]),
    }  # fmt: skip
    return Stage(
        name="select", kind="select", doc="every kept checkpoint scored, and one chosen",
        link=link(project, "selection"), outputs=("checkpoint", "scores.json"),
        needs={
            "base": MODEL, "data": _samples(project), "baseline": Need("baseline", ("answers.json",)),
            "train": Need("train", CHECKPOINTS),
        },
        **fields,
    )  # fmt: skip


def evaluate(project: Project, template: Mapping[str, Any]) -> Stage:
    """Give the stage that scores the merged model, and holds it against base and adapter."""
    adapter = {} if project.train["method"] == "full" else {"adapter": Need("adapter", ("adapter_*",))}
    return Stage(
        name="evaluate", kind="evaluate", doc="the merged model's answers and scores",
        link=link(project, "evaluation"), outputs=("scores.json", "answers.json"),
        needs={
            "base": MODEL, "data": _samples(project), "baseline": Need("baseline", ("answers.json", "scores.json")),
            "merged": Need("merge", without=(models.MODEL_RECORD,)), **adapter,
        },
        **_scoring(project, template),
    )  # fmt: skip


def gate_stage(project: Project) -> Stage:
    """Give the stage that holds the scores against the bounds."""
    return Stage(
        name="gate", kind="gate", doc="whether the model keeps to the bounds of its probes",
        parameters={"bounds": bounds_of(project)}, link=link(project, "gate"), outputs=("gate.json",),
        # It reads nothing of the report, which comes before it so that it is there whatever the gate says.
        needs={"evaluation": Need("evaluate", ("scores.json", "answers.json")), "report": Need("report", ())},
        titles={"bounds": "evaluate.probe"},
    )  # fmt: skip
