"""From a training checkpoint to what Hugging Face reads: a PEFT adapter folder, or a whole model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.adapters import LLM
from tunemake.checkpoints import dtype_of, fill, load_weights
from tunemake.faults import Fault, StageError
from tunemake.lora import LoraConfig
from tunemake.lora_changes import tied_pair
from tunemake.model_folder import (
    BUFFERS,
    Spec,
    copy_companions,
    create_weights,
    declared_dtype,
    group,
    read_config,
    write_config,
)
from tunemake.stages import Job
from tunemake.tensors import FLOATS, Tensor, create, read_model

PREFIX = "base_model.model."  # PEFT keeps it under this one
CHECKPOINT = re.compile(r"iter_\d+\.pth")
FACTOR_A = re.compile(rf"{re.escape(PREFIX)}(.+)\.(?:lora_A\.weight|lora_embedding_A)")


def run(job: Job) -> dict[str, Any]:
    """Write the adapter of the chosen checkpoint into work.

    parameters: lora (r, alpha, dropout, targets), base (the model's source). inputs: train and, where one was chosen
    among several, select.
    """
    checkpoint = chosen_checkpoint(job.inputs)
    write_adapter(checkpoint, job.parameters["lora"], job.parameters["base"], job.work)
    return {"checkpoint": checkpoint.name}


def chosen_checkpoint(inputs: Mapping[str, Path]) -> Path:
    """Find the checkpoint that select chose, or the last one; raises StageError where the training has no such file."""
    told = inputs["select"] / "checkpoint" if "select" in inputs else inputs["train"] / "last_checkpoint"
    name = told.read_text("utf-8").strip()
    if not CHECKPOINT.fullmatch(name) or not (inputs["train"] / name).exists():
        raise StageError(Fault(str(told.name), "names no checkpoint of the training", got=name[:60]))
    return inputs["train"] / name


def write_adapter(checkpoint: Path, lora: Mapping[str, Any], base_name: str, out: Path) -> None:
    """Write the checkpoint's LoRA weights as a PEFT adapter into the folder out.

    lora: r, alpha, dropout, targets (names, "all-linear" or absent), and where wanted rslora, rank_pattern,
    alpha_pattern, modules_to_save, bias. base_name: what adapter_config.json names as the base.
    StageError for a checkpoint that cannot be read, has no LoRA weights or values that are not finite, or in
    which nothing was learnt.
    """
    weights = _adapter_weights(checkpoint)
    modules = sorted({found[1] for name in weights if (found := FACTOR_A.fullmatch(name))})
    config = _adapter_config(lora, modules, base_name)
    faults = [*_unlearnt(checkpoint, weights, modules), *_not_as_declared(checkpoint, weights, config)]
    if faults:
        raise StageError(faults)
    out.mkdir(parents=True, exist_ok=True)
    specs = [(name, dtype_of(tensor), tuple(tensor.shape)) for name, tensor in sorted(weights.items())]
    fill(create(out / "adapter_model.safetensors", specs), weights)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def full_model_from_checkpoint(
    checkpoint: Path, base: Path, out: Path, *, dtype: str = "base", shard_size: int | None = None
) -> None:
    """Write the model that a full fine-tuning made into the folder out, laid out as its base is.

    dtype: "base" keeps each tensor's own; float16, bfloat16 and float32 are for all float tensors.
    shard_size: bytes in a weight file; None keeps the base's files.
    StageError where names or shapes are not the base's, for values that are not finite or that float16 cannot
    hold.
    """
    tensors, config = read_model(base), read_config(base)
    weights = {name.removeprefix(LLM): tensor for name, tensor in load_weights(checkpoint).items()}
    tensors = {name: tensor for name, tensor in tensors.items() if name in weights or not name.endswith(BUFFERS)}
    faults = [*_other_model(checkpoint, weights, tensors, tied_pair(tensors, config))]
    if faults:
        raise StageError(faults)
    wanted = declared_dtype(dtype)
    groups: dict[Path, list[Spec]] = {}
    for name, tensor in tensors.items():
        short = wanted if wanted and tensor.dtype in FLOATS else tensor.dtype
        groups.setdefault(tensor.path, []).append((name, short, tensor.shape))
    out.mkdir(parents=True, exist_ok=True)
    files = list(groups.values())
    if shard_size is not None:
        files = group([spec for specs in files for spec in specs], shard_size)
    targets = create_weights(out, files)
    fill(targets, weights)
    copy_companions(base, out)
    write_config(out, config, targets.values())


def _adapter_weights(checkpoint: Path) -> dict[str, Any]:
    """Give the checkpoint's tensors by the names under which PEFT saves them."""
    found = {}
    for told, tensor in load_weights(checkpoint).items():
        name = told.removeprefix(LLM).replace(".modules_to_save.default.", ".")
        if name.startswith(PREFIX) and ".original_module." not in name:
            found[re.sub(r"\.(lora_\w+)\.default(?=\.|$)", r".\1", name)] = tensor
    return found


def _unlearnt(checkpoint: Path, weights: Mapping[str, Any], modules: list[str]) -> Iterator[Fault]:
    """Give a fault where there is no LoRA, or where it adds nothing: B, an embedding's A, begin as zero."""
    if not modules:
        next_step = "was it a full fine-tuning?" if not weights else None
        yield Fault(str(checkpoint), "no LoRA weights in it", next_step=next_step)
        return
    begins_as_zero = re.compile(r".*\.(lora_B\.weight|lora_embedding_A)")
    others = [name for name in weights if not re.search(r"\.lora_", name)]
    if not others and not any(weights[name].any() for name in weights if begins_as_zero.fullmatch(name)):
        next_step = "train longer, or with a higher learning rate"
        yield Fault(str(checkpoint), "nothing was learnt: every lora_B is zero", next_step=next_step)


def _not_as_declared(checkpoint: Path, weights: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Fault]:
    """Give a fault for each rank, saved module and bias that is not what the project declares."""
    declared = LoraConfig(config["r"], config["lora_alpha"], rank_pattern=config["rank_pattern"])
    for name, tensor in weights.items():
        found = FACTOR_A.fullmatch(name)
        if found and tensor.shape[0] != declared.rank(found[1]):
            yield Fault(f"{checkpoint}: {name}", "another rank", str(declared.rank(found[1])), str(tensor.shape[0]))
    for module in config["modules_to_save"] or ():
        if not any(f".{module}." in name for name in weights):
            yield Fault(str(checkpoint), f"no weights of modules_to_save's {module} in it")
    if config["bias"] == "lora_only" and not any(name.endswith(".bias") for name in weights):
        next_step = 'declare bias = "all" or "none"'
        yield Fault(str(checkpoint), "XTuner leaves the biases of lora_only out", next_step=next_step)


def _adapter_config(lora: Mapping[str, Any], modules: list[str], base_name: str) -> dict[str, Any]:
    targets = lora.get("targets") or "all-linear"
    if targets == "all-linear":  # PEFT's own meaning of it leaves out the output layer by architecture
        targets = sorted({module.rpartition(".")[2] for module in modules})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": lora["r"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora.get("dropout", 0.0),
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "use_rslora": bool(lora.get("rslora", False)),
        "rank_pattern": dict(lora.get("rank_pattern") or {}),
        "alpha_pattern": dict(lora.get("alpha_pattern") or {}),
        "modules_to_save": list(lora.get("modules_to_save") or ()) or None,
        "bias": lora.get("bias") or "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _other_model(
    checkpoint: Path, weights: Mapping[str, Any], base: Mapping[str, Tensor], tied: tuple[str, str] | None
) -> Iterator[Fault]:
    """Give a fault for each name or shape in which the two differ; a tied output may be there twice."""
    import torch

    for name in sorted(base.keys() - weights.keys()):
        yield Fault(f"{checkpoint}: {name}", "missing, and the base has it")
    for name in sorted(weights.keys() - base.keys()):
        if tied is None or name != tied[1] or tied[0] not in weights:
            yield Fault(f"{checkpoint}: {name}", "not in the base")
        elif not torch.equal(weights[name], weights[tied[0]]):
            yield Fault(f"{checkpoint}: {name}", f"differs from {tied[0]}, to which the base ties it")
    for name in sorted(weights.keys() & base.keys()):
        shape = tuple(weights[name].shape)
        if shape != base[name].shape:
            yield Fault(f"{checkpoint}: {name}", "another shape", str(list(base[name].shape)), str(list(shape)))
