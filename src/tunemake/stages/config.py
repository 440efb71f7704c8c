"""config: a complete XTuner config, and what of it decides the weights: with the training's length, and without."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.chat_templates import resolved
from tunemake.distributions import installed_version
from tunemake.engines import deepspeed, sizing, xtuner
from tunemake.engines.memory import shape_of
from tunemake.engines.sizing import Training
from tunemake.faults import Fault, InputError, ModelError, did_you_mean
from tunemake.launch_fit import devices
from tunemake.machine import Memory, absent_gpu, device_memory
from tunemake.project import machine_environment
from tunemake.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Write work/train.py, work/decides.py and work/extends.py; work/deepspeed.json where DeepSpeed trains.

    parameters: project, seed, model, model_path, data_path, tokens_path (all three relative to the project; the last
    is "" where the training makes its tokens itself), trust_remote_code, prompt_template, data and train (the tables
    of project.toml), template (its name), declared (names of the values that project.toml gives, where the template
    has values of its own); gpus and machine.memory, where they are given. runtime: choices (of tunemake.lock, of which
    one made for the same is kept to), machine (the table), on (where the training runs).
    """
    model = json.loads((job.inputs["base"] / "model.json").read_text("utf-8"))
    if faults := model_faults(model, job.parameters):
        raise ModelError(faults)
    template = resolved(job.parameters["prompt_template"], job.inputs["base"] / "model")
    choice = _chosen(job, model)
    values = sizing.settled({**job.parameters, "prompt_template": template}, choice)
    text, why = xtuner.training_config(values, job.root)
    if why is not None:
        job.say(f"the training makes its tokens itself, and reads none of those made before: {why}")
    (job.work / xtuner.CONFIG).write_text(text, "utf-8")
    decides = xtuner.render_config(xtuner.deciding_values(values), job.root)
    (job.work / xtuner.DECIDES).write_text(decides, "utf-8")
    extends = xtuner.render_config(xtuner.without_length(xtuner.deciding_values(values)), job.root)
    (job.work / xtuner.EXTENDS).write_text(extends, "utf-8")
    _write_deepspeed(job)
    return {"engine": "xtuner", **({"chosen": choice} if choice else {})}


def training(
    values: Mapping[str, Any], runtime: Mapping[str, Any], facts: Mapping[str, Any], folder: Path
) -> tuple[Training, Memory]:
    """Give what batch and checkpointing are chosen for, and the memory that there is.

    values, runtime: those of the stage; facts: base/model.json; folder: the model's.
    """
    train, gpus = values["train"], values.get("gpus", 1)
    memory = device_memory(machine_environment(), runtime["machine"], train, gpus, here=runtime["on"] == "here")
    fused = memory.of_gpu and installed_version("liger-kernel") is not None
    way = sizing.way_of(train, autocast=xtuner.autocast(train, values["template"]), fused_loss=fused)
    shape = shape_of(json.loads((folder / "config.json").read_text("utf-8")), facts)
    return Training(train, devices(values), values["data"]["max_length"], shape, way), memory


def _chosen(job: Job, facts: Mapping[str, Any]) -> sizing.Choice:
    """Give what is chosen of what the project leaves open: by an earlier build, or now."""
    asked, memory = training(job.parameters, job.runtime, facts, job.inputs["base"] / "model")
    made = sizing.made_for(job.parameters, facts["sha256"])
    if (before := sizing.kept(asked, job.runtime["choices"], made)) is not None:
        job.say(f"{before[sizing.WHY]}, as tunemake.lock has it")
        return before
    here, parted = job.runtime["on"] == "here", asked.share is not None and memory.size is None
    if here and parted and (fault := absent_gpu(asked.train, machine_environment())) is not None:
        raise InputError(fault)
    choice = sizing.choose(asked, memory)
    if choice:
        job.say(choice[sizing.WHY])
    return {**choice, sizing.FOR: made} if choice else {}


def _write_deepspeed(job: Job) -> None:
    told, precision = job.parameters["train"].get("deepspeed"), job.parameters["train"]["precision"]
    if told is None:
        return
    name = deepspeed.source(told)
    file = None if name is None else xtuner.source_path(name, job.root) if xtuner.is_source(name) else job.root / name
    content = deepspeed.settings(told, precision, file)
    (job.work / deepspeed.SETTINGS).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def model_faults(model: Mapping[str, Any], values: Mapping[str, Any]) -> list[Fault]:
    """Say what a model cannot do that is asked of it. model: as base/model.json tells of it; values: as in run."""
    return [*_too_long(model, values["data"]), *_no_such_targets(model, values["train"])]


def _too_long(model: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Fault]:
    longest, wanted = model["max_length"], data["max_length"]
    if longest is not None and wanted > longest:
        yield Fault("data.max_length", "longer than the model reads", expected=f"at most {longest}", got=str(wanted))


def _no_such_targets(model: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[Fault]:
    """Tell each name that no layer has: PEFT says nothing where another one is found."""
    targets, known = train["lora"]["targets"], model["matrices"]
    if train["method"] == "full" or isinstance(targets, str):  # all of them, or PEFT's own regular expression
        return
    for target in targets:
        if target.rpartition(".")[2] not in known:
            step = did_you_mean(target, known)
            expected = None if step else "one of " + ", ".join(known)
            yield Fault("train.lora.targets", f"the model has no layer {target}", expected, next_step=step)
