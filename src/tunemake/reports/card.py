"""The model card: Hugging Face's README.md of the merged model, and of the adapter.

It holds no times: equal models have equal cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunemake.reports.pages import markdown
from tunemake.reports.portable import base_source, hub_name, portable

HERE = 'model_name = "."'  # a line of the card's example, which who publishes it to a hub replaces
MOST_PROMPT = 2000  # letters of a prompt that are shown


@dataclass(frozen=True)
class Told:
    """What a card tells. parameters: the report stage's. evaluation, data: as run_figures gives them; None for none.

    base: model.json. prompt: a question as the model is given it. files: of the model, with bytes. onto: what the
    adapter was merged onto, as run_figures says it.
    """

    parameters: Mapping[str, Any]
    base: Mapping[str, Any]
    data: Mapping[str, Any] | None
    prompt: str
    evaluation: Mapping[str, Any] | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    onto: str = ""


def card(told: Told, *, adapter: bool) -> str:
    """Write the card of the merged model, or of the adapter."""
    own = told.parameters
    return markdown(
        "README.md.jinja",
        {
            "metadata": metadata(told, adapter=adapter), "adapter": adapter, "here": HERE, "project": own["project"],
            "base_name": base_source(own["base"]), "base_hub": _base_hub(own), "base": told.base,
            "license": own.get("license"), "languages": own.get("languages") or [],
            "template": own["prompt_template"], "prompt": told.prompt[:MOST_PROMPT], "evaluation": told.evaluation,
            "datasets": portable(own["datasets"]), "data": told.data, "train": flat(portable(own["train"])),
            "files": told.files, "onto": told.onto,
        },
    )  # fmt: skip


def metadata(told: Told, *, adapter: bool) -> str:
    """Write the card's YAML by huggingface_hub: what hubs index a model by."""
    from huggingface_hub import ModelCardData

    own = told.parameters
    hub = _base_hub(own)
    data = ModelCardData(
        model_name=own["project"], base_model=hub, license=own.get("license"), language=own.get("languages") or None,
        datasets=[dataset["parameters"]["path"] for dataset in own["datasets"] if _is_of_hub(dataset)] or None,
        library_name="peft" if adapter else "transformers", pipeline_tag="text-generation",
        tags=["tunemake", "xtuner", *([own["train"]["method"]] if "method" in own["train"] else [])],
        eval_results=_results(told) or None,
    )  # fmt: skip
    if hub is not None:
        data["base_model_relation"] = "adapter" if adapter else "finetune"
    return str(data.to_yaml())


def flat(values: Mapping[str, Any], at: str = "") -> dict[str, str]:
    """Give values as project.toml names them, such as lora.r, each as text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{at}{name}.")
        else:
            found[f"{at}{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else _told(value)
    return found


def files_of(folder: Path, record: Mapping[str, Any]) -> dict[str, int]:
    """Give a model's files that are handed on, as recorded, with their bytes; its log is none of them."""
    outputs = record["outputs"].items()
    return {name: output["size"] for name, output in outputs if name != "log.txt" and (folder / name).is_file()}


def _told(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "–" if value is None else str(value)


def _base_hub(own: Mapping[str, Any]) -> str | None:
    return own.get("base_model") or hub_name(own["base"])


def _is_of_hub(dataset: Mapping[str, Any]) -> bool:
    path = dataset["parameters"].get("path")
    return dataset["generator"] == "hf" and isinstance(path, str) and path.count("/") == 1 and path[0] not in "./~"


def _results(told: Told) -> list[Any]:
    from huggingface_hub import EvalResult

    probes: Sequence[Mapping[str, Any]] = told.evaluation["probes"] if told.evaluation is not None else ()
    # Results of one dataset and configuration would be told together.
    return [
        EvalResult(
            task_type="text-generation", dataset_type="probe", dataset_config=probe["name"],
            dataset_name=f"{probe['prompts']} prompt{'s' * (probe['prompts'] != 1)}", metric_type=probe["kind"],
            metric_name=f"{probe['name']} ({probe['unit']})", metric_value=probe["score"],
        )
        for probe in probes
        if probe["score"] is not None
    ]  # fmt: skip
