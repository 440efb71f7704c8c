"""Proof that a merged model is its base plus its adapter: the written files read back, every fault told at once.

Values are weight_proof.py's, files folder_proof.py's, the chat template speech_proof.py's; here names, shapes, dtypes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunemake.faults import Fault
from tunemake.folder_proof import folder_faults
from tunemake.lora_changes import tied_pair
from tunemake.model_folder import BUFFERS, declared_dtype, read_config
from tunemake.speech_proof import speech_faults
from tunemake.tensors import FLOATS, Files, Tensor, read_model
from tunemake.weight_proof import Claim, WeightProof, read_claims

TOLD = 10  # faults of one kind; the others are counted
FourBits = tuple[frozenset[str], str]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Proof:
    """What was wrong, and what was looked at: weights and values compared, the largest deviation and change."""

    faults: tuple[Fault, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Expected:
    """One tensor that must be there: its dtype, the tensor that it comes from, and the adapter's claim on it."""

    dtype: str
    source: Tensor
    claim: Claim | None


def prove(
    merged: Path,
    base: Path,
    adapter: Path | None,
    *,
    dtype: str = "base",
    shard_size: int | None = None,
    template: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    four_bits: FourBits | None = None,
) -> Proof:
    """Hold a merged model's folder against base and adapter, both as they lie on the disk.

    adapter: None after a full fine-tuning, whose weights only have to differ from the base's. dtype, shard_size
    (bytes), template (resolved): what the project declares; without a template the chat template is not compared.
    four_bits: where the base had to be dequantised: which of its weights, and the training's precision.
    Every changed weight is compared in sampled rows, every other tensor whole. ModelError where a file cannot be read.
    """
    config, tensors, written = read_config(base), read_model(base), read_model(merged)
    claims, told = ({}, {}) if adapter is None else read_claims(adapter)
    pair = tied_pair(tensors, config)
    untied = pair is not None and any(name in claims for name in pair)
    expected = _expected(tensors, claims, pair if untied else None, pair)
    if adapter is None:
        expected = {name: wanted for name, wanted in expected.items() if name in written or not name.endswith(BUFFERS)}
    faults = [
        *_few(_claim_faults(claims, expected)),
        *_few(_left_out(claims, tensors, config.get("num_hidden_layers", config.get("n_layer")), told)),
        *_few(_form_faults(expected, written, declared_dtype(dtype))),
        *folder_faults(merged, base, written, shard_size, untied=untied),
    ]
    with Files() as files:
        proof = WeightProof(files, fan_in_fan_out=bool(told.get("fan_in_fan_out")))
        same_form = {name: wanted for name, wanted in expected.items() if _alike(wanted, written.get(name))}
        faults += _value_faults(proof, same_form, written, four_bits, full=adapter is None)
    if template is not None:
        faults += speech_faults(merged, base, template, trust_remote_code=trust_remote_code)
    tally = proof.tally
    facts: dict[str, Any] = {"weights": tally.weights, "values": tally.values, "whole_tensors": tally.whole}
    facts |= {"largest_deviation": tally.deviation, "largest_change": tally.change}
    return Proof(tuple(faults), facts | {"chat_template": "compared" if template else "not compared"})


def _expected(
    base: Mapping[str, Tensor], claims: Mapping[str, Claim], untied: tuple[str, str] | None,
    pair: tuple[str, str] | None,
) -> dict[str, _Expected]:  # fmt: skip
    """Give the tensors that must be there; a tied output is the input embedding, and stands alone once untied."""
    made = {name: _Expected(tensor.dtype, tensor, claims.get(name)) for name, tensor in base.items()}
    for name in {*claims, *(untied or ())}:
        of = base.get(pair[0] if pair and name == pair[1] else name)
        if of is not None:
            made[name] = _Expected(of.dtype, of, claims.get(name))
    return made


def _claim_faults(claims: Mapping[str, Claim], expected: Mapping[str, _Expected]) -> Iterator[Fault]:
    """Give a fault for each part of the adapter that has no place in the base."""
    for name, claim in claims.items():
        wanted = expected.get(name)
        if wanted is None:
            yield Fault("merge", f"{name}: the adapter changes it, and the base has no such weight")
        elif (claim.a is None) != (claim.b is None):
            yield Fault("merge", f"{name}: the adapter has only one of A and B")
        elif claim.whole and (claim.whole.shape != wanted.source.shape or claim.whole.dtype not in FLOATS):
            yield Fault("merge", f"{name}: the adapter's does not fit the base's {list(wanted.source.shape)}")


def _left_out(
    claims: Mapping[str, Claim], base: Iterable[str], depth: object, told: Mapping[str, Any]
) -> Iterator[Fault]:
    """Give a fault for each layer that the adapter lacks: what it changes in one, it must change in all.

    Not where its config picks layers, and not beyond the depth of the model: layers of some files are never run.
    """
    targets = told.get("target_modules")
    picked = any(told.get(key) is not None for key in ("layers_to_transform", "exclude_modules"))
    if not isinstance(targets, list) or not isinstance(depth, int) or picked:
        return
    forms = {_NUMBER.sub("*", name) for name, claim in claims.items() if claim.a}
    for name in base:
        number, last = _NUMBER.search(name), name.split(".")[-2:-1]
        lacks = name not in claims and _NUMBER.sub("*", name) in forms and last[0] in targets
        if number and int(number[0]) < depth and lacks:
            yield Fault("merge", f"{name}: the adapter changes it in other layers, and lacks this one")


def _alike(wanted: _Expected, written: Tensor | None) -> bool:
    """Say whether values can be compared: shapes are the same, and so are dtypes, or a cast between them is known."""
    whole = wanted.claim.whole if wanted.claim else None
    for side in (wanted.source, whole or wanted.source):
        if written is None or written.shape != side.shape:
            return False
        if written.dtype != side.dtype and not {written.dtype, side.dtype} <= FLOATS.keys():
            return False
    return True


def _form_faults(
    expected: Mapping[str, _Expected], written: Mapping[str, Tensor], declared: str | None
) -> Iterator[Fault]:
    for name in sorted(expected.keys() | written.keys()):
        wanted, tensor = expected.get(name), written.get(name)
        if wanted is None:
            yield Fault("merge", f"{name} is neither the base's nor the adapter's")
        elif tensor is None:
            yield Fault("merge", f"{name} is missing in the merged model")
        else:
            dtype = declared if declared and wanted.dtype in FLOATS else wanted.dtype
            if tensor.dtype != dtype:
                yield Fault("merge", f"{name} has the wrong dtype", dtype, tensor.dtype)
            if tensor.shape != wanted.source.shape:
                yield Fault("merge", f"{name} has the wrong shape", str(wanted.source.shape), str(tensor.shape))


def _value_faults(
    proof: WeightProof, expected: Mapping[str, _Expected], written: Mapping[str, Tensor], four_bits: FourBits | None,
    *, full: bool,
) -> list[Fault]:  # fmt: skip
    """Give the faults of values. full: after a full fine-tuning, where any tensor may have changed."""
    names, trained = four_bits or (frozenset(), None)
    faults: list[Fault] = []
    for name, wanted in () if full else expected.items():
        claim = wanted.claim or Claim()
        matrix = len(wanted.source.shape) == 2 and wanted.dtype in FLOATS  # noqa: PLR2004 - rows and columns
        precision = trained if name in names and matrix and not claim.whole else None
        if claim.a:
            fault = proof.changed(name, written[name], claim.whole or wanted.source, claim, precision)
            faults += [fault] if fault else []
        elif precision is not None:
            fault = proof.dequantised(name, written[name], wanted.source, precision)
            faults += [fault] if fault else []
        else:
            faults += _copied(proof, name, written[name], claim.whole or wanted.source, wanted.claim)
    if names and proof.tally.nonzero:  # dequantised, every weight differs from the base's, whatever the adapter adds
        return list(_few(faults))
    touched = [name for name, wanted in expected.items() if (full or wanted.claim) and name not in names]
    return [*_unchanged(proof, touched, expected, written, full=full), *_few(faults)]


def _copied(proof: WeightProof, name: str, written: Tensor, source: Tensor, claim: Claim | None) -> Iterator[Fault]:
    """Give a fault where a tensor is not the very one of the base, or the one that the adapter holds whole."""
    proof.tally.whole += 1
    blocks = list(proof.unlike(written, source))
    if blocks:
        what = "is not the adapter's own" if claim else "is not the base's, and the adapter does not touch it"
        count = sum(number for _, number in blocks)
        yield Fault("merge", f"{name} {what}: {count} of {written.count} values differ, the first at {blocks[0][0]}")


def _unchanged(
    proof: WeightProof,
    touched: Iterable[str],
    expected: Mapping[str, _Expected],
    written: Mapping[str, Tensor],
    *,
    full: bool,
) -> Iterator[Fault]:
    """Give a fault where no weight that had to change did; the samples mostly tell, else the whole is read."""
    if proof.tally.differs or any(
        next(proof.unlike(written[name], expected[name].source), None) for name in touched if name in written
    ):
        return
    if full:
        yield Fault("merge", "every weight is the base's: the training changed nothing, or the merge exported the base")
    elif proof.tally.nonzero:
        step = "declare a wider merge.dtype, or train longer"
        yield Fault(
            "merge",
            "every weight is the base's: the merge exported the base, or the adapter is lost in rounding",
            next_step=step,
        )
    else:
        yield Fault("merge", "the adapter is all zeros: the merged model is its base", next_step="train longer")


def _few(faults: Iterable[Fault]) -> Iterator[Fault]:
    """Give the first faults of a kind, and one that counts the others."""
    every = list(faults)
    yield from every[:TOLD]
    if len(every) > TOLD:
        yield Fault("merge", f"{len(every) - TOLD} more weights have such a fault")
