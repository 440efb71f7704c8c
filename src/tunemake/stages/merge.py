"""Merge an adapter into its base model, row block by row block, without torch.

Each changed weight is base + scale · B·A, summed in float32 and rounded once; everything else is copied byte for byte.
Where the project asks for it, the base of an adapter of QLoRA is the one that it was trained against: dequantised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunemake.chat_templates import resolved
from tunemake.dequantised_base import DequantisedBase
from tunemake.digests import DIGESTS, Digests
from tunemake.engines.quantised_layers import quantised_weights
from tunemake.faults import Fault, ModelError, StageError
from tunemake.lora_changes import Change, read_changes
from tunemake.merge_proof import prove
from tunemake.merged_weights import Work, pieces_of
from tunemake.model_folder import (
    Spec,
    copy_companions,
    create_weights,
    declared_dtype,
    group,
    read_config,
    refuse_quantised,
    set_chat_template,
    write_config,
)
from tunemake.model_record import write_model_record
from tunemake.stages import Job
from tunemake.tensors import FLOATS, Tensor, read_model


def _silent(done: int, total: int) -> None:
    """Take a progress report and show nothing."""


def run(job: Job) -> dict[str, Any]:
    """Write the merged model, which speaks by the project's prompt template, and its record into work.

    parameters: dtype, shard_size ("2GB" or None), prompt_template; and for the record project, base and template
    (names). Where the base is to be dequantised: onto ("dequantised") and precision (the training's).
    runtime: trust_remote_code, and four_bits: whether the adapter was trained in them.
    inputs: base, data, and adapter or, of a full fine-tuning, train and what chosen_checkpoint reads.
    """
    base, dtype = job.inputs["base"] / "model", job.parameters["dtype"]
    size, trusted = shard_bytes(job.parameters["shard_size"]), job.runtime["trust_remote_code"]
    onto = _onto(job)
    if "adapter" in job.inputs:
        merge(base, job.inputs["adapter"], job.work, dtype=dtype, shard_size=size, progress=job.progress, onto=onto)
    else:
        from tunemake.stages.adapter import chosen_checkpoint, full_model_from_checkpoint

        full_model_from_checkpoint(chosen_checkpoint(job.inputs), base, job.work, dtype=dtype, shard_size=size)
    template = resolved(job.parameters["prompt_template"], base)
    set_chat_template(job.work, template, trust_remote_code=trusted)
    proof = prove(
        job.work, base, job.inputs.get("adapter"), dtype=dtype, shard_size=size, template=template,
        trust_remote_code=trusted, four_bits=(onto.names, onto.precision) if onto else None,
    )  # fmt: skip
    if proof.faults:
        raise StageError(proof.faults)
    told = {**job.parameters, "prompt_template": template, **({"four_bits": sorted(onto.names)} if onto else {})}
    write_model_record(job.work, job.inputs, told, Digests(job.root / DIGESTS))
    return {"dtype": dtype, "proof": proof.facts, **_told(job, onto)}


def _onto(job: Job) -> DequantisedBase | None:
    if "onto" not in job.parameters:
        return None
    names = quantised_weights(job.inputs["base"] / "model", trust_remote_code=job.runtime["trust_remote_code"])
    return DequantisedBase(names, job.parameters["precision"])


def _told(job: Job, onto: DequantisedBase | None) -> dict[str, Any]:
    """Say what the adapter of a training in 4 bits was merged onto; give it as facts."""
    if onto is not None:
        distance = float(f"{onto.distance():.4g}")
        job.say(
            f"merged onto the base as it was trained against: {len(onto.names)} weights, dequantised from 4 bits, lie "
            f"{distance:.2%} of their size off the base's own"
        )
        return {"onto": {"base": "dequantised", "weights": len(onto.names), "distance": distance}}
    if job.runtime.get("four_bits"):
        job.say(
            "merged onto the base's own weights; the adapter was trained against their 4 bits, onto which "
            'merge.base = "dequantised" merges it'
        )
        return {"onto": {"base": "original"}}
    return {}


def shard_bytes(text: str | None) -> int | None:
    """Give the bytes of a size such as "2GB" or "500MB" (powers of ten, as Hugging Face counts)."""
    return None if text is None else int(float(text[:-2]) * {"MB": 10**6, "GB": 10**9}[text[-2:]])


def merge(
    base: Path,
    adapter: Path | None,
    out: Path,
    *,
    dtype: str = "base",
    shard_size: int | None = None,
    progress: Callable[[int, int], None] = _silent,
    onto: DequantisedBase | None = None,
) -> None:
    """Write the merged model into the folder out: weights, config.json, tokenizer and custom code.

    adapter: None writes the base itself, in another dtype or in other files.
    dtype: "base" keeps each tensor's own; float16, bfloat16 and float32 are for all float tensors.
    shard_size: bytes in a weight file; None keeps the base's files.
    progress: called with bytes written and bytes in all, by several threads, one at a time.
    onto: makes the weights that it names what they were in a training in 4 bits; None takes them as they are.
    ModelError for a base or an adapter that cannot be merged; StageError for a result that float16 cannot
    hold, for factors that are not finite, and where the disk fails.
    """
    config, tensors = read_config(base), read_model(base)
    refuse_quantised(base, config, tensors)
    changes: dict[str, Change] = {name: Change(tensor.dtype, tensor) for name, tensor in tensors.items()}
    untied = False
    if adapter is not None:
        changed, untied = read_changes(adapter, tensors, config)
        changes |= changed
    if onto is not None:
        changes |= _in_four_bits(changes, tensors, onto)
    groups = _groups(tensors, changes, dtype, shard_size)
    try:
        out.mkdir(parents=True, exist_ok=True)
        targets = create_weights(out, groups)
        pieces = [piece for name, target in targets.items() for piece in pieces_of(target, changes[name])]
        Work(pieces, progress, onto).run()
        copy_companions(base, out)
        write_config(out, config, targets.values(), untied=untied)
    except OSError as error:
        raise StageError(Fault(str(error.filename or out), f"cannot be written: {error.strerror}")) from error


def _in_four_bits(
    changes: Mapping[str, Change], base: Mapping[str, Tensor], onto: DequantisedBase
) -> dict[str, Change]:
    """Give the changes of weights that were trained in 4 bits; one that the adapter holds whole was not."""
    absent = [name for name in sorted(onto.names) if name not in base or base[name].dtype not in FLOATS]
    if absent:
        raise ModelError(Fault(name, "was trained in 4 bits, and the base has no such weight") for name in absent)
    return {name: replace(changes[name], four_bits=True) for name in onto.names if changes[name].source == base[name]}


def _groups(
    tensors: Mapping[str, Tensor], changes: Mapping[str, Change], dtype: str, shard_size: int | None
) -> list[list[Spec]]:
    """Give the tensors of each weight file; an output that was tied goes into the last one."""
    declared = declared_dtype(dtype)
    files: dict[Path | None, list[Spec]] = {}
    for name, change in changes.items():
        wanted = declared if declared and change.dtype in FLOATS else change.dtype
        shard = tensors[name].path if name in tensors else next(reversed(files), None)
        files.setdefault(shard, []).append((name, wanted, change.source.shape))
    if shard_size is None:
        return list(files.values())
    return group([spec for specs in files.values() for spec in specs], shard_size)
