"""Project and plugins to stages; pure, touches no disk.

base ──────┬─▶ config ───────────┐
dataset:* ─┴─▶ data ──▶ tokens ──┴─▶ train ─▶ select ─▶ adapter ─▶ merge ─▶ evaluate ─▶ report ─▶ gate ─▶ export
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunemake import judging, models, schema
from tunemake.engines import deepspeed, xtuner
from tunemake.exporting import export
from tunemake.judging import data_file, link, selects
from tunemake.project import SCHEMA, Dataset, Project
from tunemake.reporting import report
from tunemake.stage import CHECKPOINTS, MODEL, Need, Stage
from tunemake.tokenising import tokens, tokens_file


def stages(
    project: Project, needs_base: Callable[[str, Mapping[str, Any]], bool], template: Mapping[str, Any],
    config_sources: Sequence[str], variants: Sequence[str] = (), *, makes_tokens: str | None = None,
    choices: Sequence[Mapping[str, Any]] = (),
) -> list[Stage]:  # fmt: skip
    """Give the project's stages, each after those that it needs.

    needs_base: says it of a generator, by name and parameters. template: the prompt template that the project names.
    config_sources: the files that the training config's template is made of. variants: the names of all.
    makes_tokens: why the training makes its tokens itself; None where a stage makes them for it. choices: what earlier
    builds chose of what a project leaves open, from tunemake.lock.
    """
    base, tokens_path = _base(project), tokens_file(project) if makes_tokens is None else ""
    heavy = [d for d in project.datasets if needs_base(d.generator, d.parameters)]
    light = [d for d in project.datasets if d not in heavy]
    # What can be wrong and is quickly made comes first: an empty dataset is told before a model is fetched.
    made = [_dataset(project, dataset, None) for dataset in light]
    made += [base, replace(_config(project, template, base, config_sources, tokens_path), runtime={
        "choices": list(choices), "machine": dict(project.machine), "on": project.launch["on"],
    })]  # fmt: skip
    made += [_dataset(project, dataset, template) for dataset in heavy]
    made.append(_data(project))
    if makes_tokens is None:
        made.append(tokens(project, template))
    if project.evaluate is not None:  # before the training: a probe that cannot score is told then
        made.append(judging.baseline(project, template))
    made.append(_train(project, template, makes_tokens))
    if selects(project):
        made.append(judging.select(project, template))
    if project.train["method"] != "full":
        made.append(_adapter(project))
    made.append(_merge(project, template))
    if project.evaluate is not None:
        made.append(judging.evaluate(project, template))
    made.append(report(project, variants=variants, tokens=makes_tokens is None))
    if project.evaluate is not None:
        made.append(judging.gate_stage(project))  # after the report, which is there for a model that fails too
    if project.export is not None:
        made.append(export(project, template))
    return made


def combined(by_variant: Mapping[str, list[Stage]]) -> list[Stage]:
    """Give the stages of all variants: what is the same in all of them once, the rest as STAGE:VARIANT."""
    every = {variant: {stage.name: replace(stage, variant=variant) for stage in made}
             for variant, made in by_variant.items()}  # fmt: skip
    first = next(iter(every.values()))
    if len(every) == 1:
        return list(first.values())
    shared: dict[str, Stage] = {}
    for name, stage in first.items():
        same = all(name in made and _work(made[name]) == _work(stage) for made in every.values())
        if same and all(need.stage in shared for need in stage.needs.values()):
            links = dict.fromkeys(made[name].link for made in every.values())
            shared[name] = replace(stage, also=tuple(links)[1:])
    own: dict[str, Stage] = {}  # by link, which a base has in common with the base of another variant
    for variant, made in every.items():
        names = dict.fromkeys(shared, "")
        for name, stage in made.items():
            if name not in shared:
                mine = _named(stage, f"{name}:{variant}", names)
                names[name] = own.setdefault(mine.link, mine).name
    all_made = [*shared.values(), *own.values()]
    gates = {stage.name for stage in all_made if stage.kind == "gate"}
    behind = {stage.name for stage in all_made if any(need.stage in gates for need in stage.needs.values())}
    # A gate that fails ends the build: by then, what needs none of it is made.
    return sorted(all_made, key=lambda stage: (stage.name in behind, stage.name in gates))


def _named(stage: Stage, name: str, names: Mapping[str, str]) -> Stage:
    """Name a stage, and those that it needs as names says, by their names in the variant; "" keeps one."""
    needs = {role: replace(need, stage=names[need.stage] or need.stage) for role, need in stage.needs.items()}
    return replace(stage, name=name, needs=needs)


def _work(stage: Stage) -> tuple[Any, ...]:
    """Give what a stage does, wherever its artifact is shown."""
    code = stage.generator, stage.asked
    return stage.kind, stage.parameters, stage.runtime, stage.needs, code, stage.sources, stage.folder


def last_stages(made: list[Stage]) -> list[str]:
    """Name the stages that a plain build asks for: those that no other needs."""
    needed = {need.stage for stage in made for need in stage.needs.values()}
    return [stage.name for stage in made if stage.name not in needed]


def base_name(source: str) -> str:
    """Give the name under build/base of a model source: its last part, without version."""
    last = source.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    name = re.split(r"==|@", last)[0]
    return re.sub(r"[^A-Za-z0-9._-]", "_", name) or "model"


def base_link(project: Project) -> str:
    """Give the link that shows the base model; a variant with a base of its own has one of its own."""
    if any(path[0] == "model" and path[1:2] != ("prompt_template",) for path in project.variant.values):
        return link(project, "base")
    return f"build/base/{base_name(project.model['source'])}"


def _base(project: Project) -> Stage:
    source = project.model["source"]
    return Stage(
        name="base", kind="base", doc="the base model's folder",
        parameters={
            "source": source, "sha256": project.model.get("sha256"),
            "trust_remote_code": project.model["trust_remote_code"],
        },
        link=base_link(project), outputs=("model.json", "model/config.json"),
        folder=source if models.parse_source(source).kind == "folder" else None,
        titles={name: f"model.{name}" for name in ("source", "sha256", "trust_remote_code")},
    )  # fmt: skip


def _dataset(project: Project, dataset: Dataset, template: Mapping[str, Any] | None) -> Stage:
    parameters = {
        "generator": dataset.generator, "parameters": dict(dataset.parameters), "on_bad": dataset.on_bad,
        "seed": project.seed,
    }  # fmt: skip
    needs = {}
    if template is not None:
        trusted = project.model["trust_remote_code"]
        parameters |= {"prompt_template": dict(template), "trust_remote_code": trusted}
        needs = {"base": MODEL}
    return Stage(
        name=f"dataset:{dataset.name}", kind="dataset", doc=f"samples of {dataset.generator}",
        parameters=parameters, runtime={"name": dataset.name, "plugins": list(project.plugins)},
        link=f"build/{project.variant.name}/datasets/{dataset.name}", outputs=("samples.jsonl",), needs=needs,
        generator=dataset.generator,
        titles={
            "generator": f"datasets.{dataset.name}.generator", "seed": "project.seed",
            "parameters": f"datasets.{dataset.name}.parameters", "on_bad": f"datasets.{dataset.name}.on_bad",
        },
    )  # fmt: skip


def _data(project: Project) -> Stage:
    names = [dataset.name for dataset in project.datasets]
    return Stage(
        name="data", kind="data", doc="datasets mixed, split into training and held-out samples",
        parameters={
            "datasets": names, "held_out": project.data["held_out"], "seed": project.seed,
            "format": project.data["format"],
        },
        link=link(project, "data"), outputs=(data_file(project), data_file(project, "held_out")),
        needs={name: Need(f"dataset:{name}", ("samples.jsonl",)) for name in names},
        titles={"held_out": "data.held_out", "seed": "project.seed", "format": "data.format"},
    )  # fmt: skip


def _config(
    project: Project, template: Mapping[str, Any], base: Stage, sources: Sequence[str], tokens_path: str
) -> Stage:
    name = xtuner.config_template(project.train)
    own = deepspeed.source(project.train.get("deepspeed"))
    return Stage(
        name="config", kind="config", doc="the training config",
        parameters={
            "project": project.name, "seed": project.seed, "model": project.model["source"],
            "model_path": f"{base.link}/model", "data_path": f"{link(project, 'data')}/{data_file(project)}",
            "tokens_path": tokens_path,
            "trust_remote_code": project.model["trust_remote_code"], "prompt_template": dict(template),
            "data": _training_data(project), "train": _without_template(project.train), "template": name,
            # Only a config that has values of its own asks which of ours are meant to replace them.
            "declared": sorted(project.declared) if xtuner.own_values(name) else [],
            # An early stop's probes may be of the project's own files.
            "plugins": list(project.plugins) if "early_stop" in project.train else [],
            # What batch_size and accumulation are chosen by.
            **_spread(project),
            **({"memory": project.machine["memory"]} if "memory" in project.machine else {}),
            **({"trainings_per_gpu": shared} if (shared := project.machine["trainings_per_gpu"]) > 1 else {}),
        },
        link=link(project, "config"), outputs=("train.py", "decides.py", "extends.py", *_deepspeed_settings(project)),
        needs={"base": Need("base", ("model.json", "model/config.json"))},
        sources=(*sources, *([own] if own is not None else [])),
        titles={
            "seed": "project.seed", "model": "model.source", "template": "train.template", "tokens_path": "tokens",
            "gpus": "launch.gpus", "nodes": "launch.nodes", "memory": "machine.memory",
            "trainings_per_gpu": "machine.trainings_per_gpu",
        },
    )  # fmt: skip


def _spread(project: Project) -> dict[str, int]:
    """Give over how many devices and nodes a training goes; {} for one."""
    return {name: project.launch[name] for name in ("gpus", "nodes") if project.launch[name] > 1}


def _deepspeed_settings(project: Project) -> tuple[str, ...]:
    """Name the file of DeepSpeed's settings beside the config, where there is one."""
    return (deepspeed.SETTINGS,) if "deepspeed" in project.train else ()


def _without_template(train: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in train.items() if name != "template"}


def _training_data(project: Project) -> dict[str, Any]:
    return {name: project.data[name] for name in ("max_length", "packing")}


def _train(project: Project, template: Mapping[str, Any], makes_tokens: str | None) -> Stage:
    shape = schema.load_schema(SCHEMA)["properties"]["train"]
    deciding, running = schema.parted("run", _without_template(project.train), shape)
    if project.train["method"] == "full":
        deciding.pop("lora")
    stopping = project.train.get("early_stop", {}).get("probe", ())
    tables = {"evaluate": (project.evaluate or {}).get("probe", ()), "train.early_stop": stopping}
    asked = {f"{table}.probe {probe['name']}": probe["prompts"]
             for table, probes in tables.items() for probe in probes if "prompts" in probe}  # fmt: skip
    files = [probe["prompts"] for probe in stopping if isinstance(probe.get("prompts"), str)]
    needs = {
        # The light datasets first, then the config: what can be wrong is told before anything heavy starts.
        "config": Need("config", ("decides.py", "extends.py", *_deepspeed_settings(project))),
        "base": MODEL,
        "data": Need("data", (data_file(project),)),
    }
    links = {"base": base_link(project), "data": link(project, "data")}
    if makes_tokens is None:
        # What they are made of decides the weights and is counted; so a training from before there were any is fresh.
        needs["tokens"] = Need("tokens", ())
        links["tokens"] = link(project, "tokens")
    return Stage(
        name="train", kind="train", doc="the training itself",
        asked=tuple(stopping), sources=tuple(dict.fromkeys(files)),
        parameters={**deciding, "data": _training_data(project), "seed": project.seed, **_spread(project)},
        runtime={
            **running, "questions": asked, "export": (project.export or {}).get("formats", []),
            "template": _template_check(project, template),
            "links": links, "makes_tokens": makes_tokens,
        },
        link=link(project, "train"), outputs=("last_checkpoint", "metrics.jsonl"), needs=needs, resumes=True,
        titles={**{name: f"train.{name}" for name in deciding}, "seed": "project.seed",
                "gpus": "launch.gpus", "nodes": "launch.nodes"},
    )  # fmt: skip


def _template_check(project: Project, template: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: project.model[name] for name in ("prompt_template", "template_check", "trust_remote_code")}
    return {**names, "is": dict(template), "plugins": list(project.plugins)}


def _adapter(project: Project) -> Stage:
    lora = project.train["lora"]
    return Stage(
        name="adapter", kind="adapter", doc="the adapter as a Hugging Face PEFT folder",
        parameters={"lora": dict(lora), "base": models.public_name(project.model["source"])},
        link=link(project, "adapter"), outputs=("adapter_model.safetensors", "adapter_config.json"),
        needs=_weights(project),
        titles={"lora": "train.lora", "base": "model.source"},
    )  # fmt: skip


def _merge(project: Project, template: Mapping[str, Any]) -> Stage:
    method = project.train["method"]
    weights = _weights(project) if method == "full" else {"adapter": Need("adapter", ("adapter_*",))}
    # Only where it counts, so that models from before there was a choice are fresh.
    onto = {"onto": project.merge["base"], "precision": project.train["precision"]}
    return Stage(
        name="merge", kind="merge", doc="the merged model as a Hugging Face folder",
        parameters={
            "dtype": project.merge["dtype"], "shard_size": project.merge.get("shard_size"),
            "prompt_template": dict(template),
            # For the model's own record.
            "project": project.name, "base": project.model["source"], "template": project.model["prompt_template"],
            **(onto if project.merge["base"] != "original" else {}),
        },
        runtime={"trust_remote_code": project.model["trust_remote_code"], "four_bits": method == "qlora"},
        link=link(project, "merged"), outputs=("config.json", "tokenizer_config.json", models.MODEL_RECORD),
        needs={
            "base": Need("base", ("model/**", "model.json")), **weights,
            "data": Need("data", (data_file(project),)),
        },
        titles={
            "dtype": "merge.dtype", "shard_size": "merge.shard_size", "project": "project.name",
            "base": "model.source", "template": "model.prompt_template", "onto": "merge.base",
            "precision": "train.precision",
        },
    )  # fmt: skip


def _weights(project: Project) -> dict[str, Need]:
    """Give what a stage needs that reads the chosen checkpoint."""
    if selects(project):
        return {"train": Need("train", CHECKPOINTS), "select": Need("select", ("checkpoint",))}
    return {"train": Need("train", ("last_checkpoint", *CHECKPOINTS))}
