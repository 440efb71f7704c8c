"""XTuner's built-in configs: where they lie, what each trains, and the values that it has. Read, never run."""

from __future__ import annotations

import ast
import importlib.util
import operator
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunemake.engines.python_edits import PythonText
from tunemake.faults import Fault, InputError, did_you_mean

PREFIX = "xtuner:"
PACKAGE = "xtuner/configs"
_OTHER_MODELS = {
    "LLaVAModel": "trains on images",
    "InternVL_V1_5": "trains on images",
    "DPO": "trains on pairs of a chosen and a rejected answer",
    "ORPO": "trains on pairs of a chosen and a rejected answer",
    "RewardModel": "trains a reward model, on pairs of a chosen and a rejected answer",
}
_OTHER_DATA = {
    "MOSSSFTDataset": "trains on conversations with tools in MOSS's own format",
    "build_packed_dataset": "trains on data in InternLM's own repository format",
}
_SUMS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_METHODS = ("full", "lora", "qlora")


@dataclass(frozen=True)
class Place:
    """Where a built-in config lies: under XTuner's folder of configs, and on this machine."""

    inside: str
    path: Path


@cache
def builtin_configs() -> Mapping[str, list[Place]]:
    """Give the places of every built-in config by name, sorted; most names have one place.

    Raises InputError where XTuner is not installed. Imports nothing of it.
    """
    top = _package()
    found: dict[str, list[Place]] = {}
    for folder, _, files in os.walk(top):
        for file in files:
            if file.endswith(".py") and not file.startswith(("_", ".")):
                path = Path(folder) / file
                found.setdefault(path.stem, []).append(Place(path.relative_to(top).as_posix(), path))
    return {name: sorted(found[name], key=lambda place: place.inside) for name in sorted(found)}


def builtin_config(name: str) -> Place:
    """Give the place of a built-in config, by its name or, where several have it, by folder and name.

    Raises InputError where there is none or more than one.
    """
    folder, _, stem = name.rpartition("/")
    known = builtin_configs()
    places = [p for p in known.get(stem, []) if not folder or p.inside == f"{name}.py"]
    if len(places) == 1:
        return places[0]
    if places:
        named = " or ".join(PREFIX + place.inside.removesuffix(".py") for place in places)
        raise InputError(Fault(name, "several XTuner configs have this name", expected=named))
    step = did_you_mean(stem, known) or "see tunemake configs"
    raise InputError(Fault(name, "XTuner has no such config", next_step=step))


def source_path(name: str) -> Path:
    """Give the file of a source named as xtuner/configs/FOLDER/NAME.py."""
    return _package() / name.removeprefix(PACKAGE + "/")


@cache
def _package() -> Path:
    spec = importlib.util.find_spec("xtuner")
    if spec is None or spec.origin is None:
        step = "pip install 'tunemake[train]'"
        raise InputError(Fault("train.template", "XTuner is not installed, whose config it names", next_step=step))
    return Path(spec.origin).parent / "configs"


def refusal(config: PythonText) -> str | None:
    """Say why a config cannot train on this project's chat samples, or None where it can."""
    kind = config.text_of(config.at("model.type"))
    if kind != "SupervisedFinetune":
        if not kind or "from_pretrained" in kind:
            return "is run by Hugging Face's Trainer" if kind else "trains nothing"
        return _OTHER_MODELS.get(kind, f"trains a {kind}")
    if config.at("model.llm.load_in_8bit") is not None:
        return "loads 8-bit weights, which no method of tunemake's has"
    return _refusal_of_data(config)


def _refusal_of_data(config: PythonText) -> str | None:
    data = dataset(config)
    made_by = config.text_of(config.keyword(data, "type"))
    if made_by in _OTHER_DATA:
        return _OTHER_DATA[made_by]
    if made_by not in {"process_hf_dataset", "process_ms_dataset"}:
        return f"reads data by {made_by or 'nothing that is known'}"
    if config.text_of(config.keyword(data, "dataset_map_fn")) == "pretrain_map_fn":
        return "trains on plain text"
    if config.text_of(config.keyword(data, "do_dataset_tokenization")) == "False":
        return "trains on data that was made into tokens before"
    return None


def dataset(config: PythonText) -> ast.expr | None:
    """Give the call that makes the training data; of several that are put together, the first."""
    node = config.followed(config.at("train_dataloader.dataset"))
    if config.text_of(config.keyword(node, "type")) == "ConcatDataset":
        items = config.followed(config.keyword(node, "datasets"))
        node = config.followed(items.elts[0]) if isinstance(items, ast.List) and items.elts else None
    return node


def own_values(config: PythonText) -> dict[str, Any]:
    """Give what a config says itself, under the names of project.toml, such as train.lr.

    What decides only how it runs is told as well; what cannot be read off the source is left out.
    """
    read = {
        "train.batch_size": "train_dataloader.batch_size", "train.num_workers": "train_dataloader.num_workers",
        "train.lr": "optim_wrapper.optimizer.lr", "train.weight_decay": "optim_wrapper.optimizer.weight_decay",
        "train.max_norm": "optim_wrapper.clip_grad.max_norm", "train.epochs": "train_cfg.max_epochs",
        "train.checkpoints.keep": "default_hooks.checkpoint.max_keep_ckpts",
        "train.answers.prompts": "evaluation_inputs", "train.deterministic": "randomness.deterministic",
        "train.lora.r": "model.lora.r", "train.lora.alpha": "model.lora.lora_alpha",
        "train.lora.dropout": "model.lora.lora_dropout", "train.lora.targets": "model.lora.target_modules",
        "train.activation_checkpointing": "model.use_activation_checkpointing",
    }  # fmt: skip
    found = {name: constant(config, config.at(path)) for name, path in read.items()}
    data = dataset(config)
    found["data.max_length"] = constant(config, config.keyword(data, "max_length"))
    found["data.packing"] = constant(config, config.keyword(data, "pack_to_max_length"))
    return {**{name: value for name, value in found.items() if value is not None}, **dict(_derived(config))}


def _derived(config: PythonText) -> Iterator[tuple[str, Any]]:
    method = _METHODS[0] if config.at("model.lora") is None else _METHODS[1]
    yield "train.method", method if config.at("model.llm.quantization_config") is None else _METHODS[2]
    amp = constant(config, config.at("optim_wrapper.dtype"))
    mixed = config.text_of(config.at("optim_wrapper.type")) != "OptimWrapper"
    yield "train.precision", (amp or "float16") if mixed else "float32"
    if config.at("model.use_activation_checkpointing") is None:
        yield "train.activation_checkpointing", True  # XTuner's own default
    if config.keyword(dataset(config), "pack_to_max_length") is None:
        yield "data.packing", True  # and so is this
    yield "train.warmup", warmup_share(config)
    accumulation, parallel = (constant(config, config.at(n)) for n in ("accumulative_counts", "sequence_parallel_size"))
    yield "train.accumulation", (accumulation or 1) * (parallel or 1)
    every = {"train.checkpoints.every": "default_hooks.checkpoint.interval", "train.answers.every": "evaluation_freq"}
    for name, path in every.items():
        if isinstance(count := constant(config, config.at(path)), int) and count > 0:
            yield name, f"{count} iterations"
    if (iterations := constant(config, config.at("train_cfg.max_iters"))) is not None:
        yield "train.steps", max(1, int(iterations) // ((accumulation or 1) * (parallel or 1)))
    if (template := prompt_template(config)) is not None:
        yield "model.prompt_template", template


def warmup_share(config: PythonText) -> float:
    """Give the share of the training in which a config's learning rate rises; 0 where it does not."""
    if warmup_call(config) is None:
        return 0.0
    share = constant(config, config.at(warmup_name(config) or ""))
    return float(share) if isinstance(share, int | float) else 0.0


def warmup_name(config: PythonText) -> str | None:
    """Give the name under which a config keeps that share."""
    return next((name for name in ("warmup_ratio", "warm_up_ratio") if config.assigned(name) is not None), None)


def warmup_call(config: PythonText) -> ast.Call | None:
    """Give the scheduler that raises the learning rate, or None."""
    calls = schedulers(config)
    rising = [call for call in calls[:-1] if "LinearLR" in config.text_of(config.keyword(call, "type"))]
    return rising[0] if rising else None


def schedulers(config: PythonText) -> list[ast.Call]:
    """Give a config's schedulers of the learning rate, in order."""
    listed = config.assigned("param_scheduler")
    return [call for call in listed.elts if isinstance(call, ast.Call)] if isinstance(listed, ast.List) else []


def prompt_template(config: PythonText) -> str | None:
    """Give the name of XTuner's prompt template that a config uses, or None where it is none of XTuner's."""
    node = config.assigned("prompt_template")
    named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "PROMPT_TEMPLATE"
    return node.attr if named and isinstance(node, ast.Attribute) else None


@cache
def prompt_templates() -> Mapping[str, Mapping[str, Any]]:
    """Give XTuner's own prompt templates, in its form, by name; read off its source."""
    source = PythonText((_package().parent / "utils" / "templates.py").read_text("utf-8"))
    table = source.assigned("PROMPT_TEMPLATE")
    assert isinstance(table, ast.Call)
    read = {entry.arg: entry.value for entry in table.keywords if entry.arg is not None}
    return {
        name: {item.arg: constant(source, item.value) for item in call.keywords if item.arg is not None}
        for name, call in read.items() if isinstance(call, ast.Call)
    }  # fmt: skip


def constant(config: PythonText, node: ast.expr | None) -> Any:
    """Give the value of an expression of constants, names and sums; None where it is none."""
    if isinstance(node, ast.Name) and config.assigned(node.id) is not None:
        return constant(config, config.assigned(node.id))
    if isinstance(node, ast.BinOp) and type(node.op) in _SUMS:
        left, right = constant(config, node.left), constant(config, node.right)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        return _SUMS[type(node.op)](left, right) if numbers else None
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None
