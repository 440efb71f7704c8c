"""Proof that a merged model answers as base and adapter do: logits of both, once both are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunemake.faults import Fault

# A weight, a product's result or a sum is rounded at most to these relative errors: 2^-p, p bits of precision.
UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SITES = 10  # of a layer: seven products, two normalisations, the sums onto the residual stream
SAFETY = 4.0


def tolerance(config: Any, stored: str, computed: str) -> float:
    """Give how far logits may part, as root mean square, relative to their spread: no unit.

    config: transformers' of the model. stored: the dtype that merged weights were rounded to; computed: the one of
    the products, both as torch names them.

    Where merged weights are rounded once more than the base's, each adds a relative error of at most u(stored); a
    result is rounded by u(computed); and a sum of K terms in float32 is off by about √K · 2^-24 where errors are
    independent (Higham and Mary 2019, A New Approach to Probabilistic Rounding Error Analysis). A normalised
    residual stream passes relative errors on as they are, and independent ones add by their squares, so that
    n = 10 sites of each layer and the output give √n of it. Four times that is allowed: what attention sharpens, and
    errors that are not quite independent.
    """
    layers, width = _sizes(config)
    each = UNITS[stored] + UNITS[computed] + math.sqrt(width) * UNITS["float32"]
    return SAFETY * math.sqrt(SITES * layers + 1) * each


def logits_faults(
    adapted: Any, merged: Any, rows: Sequence[Sequence[int]], *, stored: str
) -> tuple[list[Fault], dict[str, Any]]:
    """Compare logits of base and adapter (a PeftModel) with those of the merged model, at every position of each row.

    rows: token ids of prompts, one by one, so that no padding counts. stored: the merged weights' dtype on the disk,
    as torch names it; both models may be loaded wider, on one device or two, and are in eval mode while this runs.
    Gives the faults, and facts: deviation (root mean square, relative to the spread of the logits, the worst row),
    tolerance, effect (of the adapter, in the same measure: base against base and adapter), argmax_agreement
    (a share of positions), positions. A fault where the deviation is beyond the tolerance, or where it is as large as
    the adapter's effect: then the merged model is no nearer to the adapter than the base is.
    """
    if not rows or not all(rows):
        return [Fault("merge", "no prompts to compare logits with", "at least one, of one token or more")], {}
    was_training = [(model, model.training) for model in (adapted, merged)]
    try:
        for model, _ in was_training:
            model.eval()
        told = [_row(adapted, merged, list(row)) for row in rows]
    finally:
        for model, training in was_training:
            model.train(training)
    computed = str(merged.dtype).removeprefix("torch.")
    positions = sum(row["positions"] for row in told)
    facts = {
        "deviation": max((row["deviation"] for row in told), key=lambda value: math.inf if value != value else value),
        "tolerance": tolerance(merged.config, stored, computed),
        "effect": max(row["effect"] for row in told),
        "argmax_agreement": sum(row["same"] for row in told) / positions,
        "positions": positions,
    }
    return _faults(facts), facts


def _faults(facts: Mapping[str, Any]) -> list[Fault]:
    agreement = f"the likeliest token agrees at {facts['argmax_agreement']:.1%} of {facts['positions']} positions"
    got = f"{facts['deviation']:.2e} of their spread ({agreement})"
    if not facts["deviation"] <= facts["tolerance"]:  # what is not finite is no agreement
        return [Fault("merge", "logits part from those of base and adapter", f"at most {facts['tolerance']:.2e}", got)]
    if facts["effect"] > facts["tolerance"] and facts["deviation"] >= facts["effect"]:
        return [Fault("merge", "logits are no nearer to the adapter's than the base's are", got=got)]
    return []


def _row(adapted: Any, merged: Any, row: list[int]) -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        here, there = _logits(adapted, row), _logits(merged, row)
        with adapted.disable_adapter():
            plain = _logits(adapted, row)
    spread = float((here - here.mean(dim=-1, keepdim=True)).square().mean().sqrt())

    def apart(other: Any) -> float:
        return float((other - here).square().mean().sqrt()) / spread if spread else math.nan

    same = int((here.argmax(dim=-1) == there.argmax(dim=-1)).sum())
    return {"deviation": apart(there), "effect": apart(plain), "same": same, "positions": len(row)}


def _logits(model: Any, row: list[int]) -> Any:
    """Give the logits in float64: float32 would lose what is compared."""
    import torch

    return model(input_ids=torch.tensor([row], device=model.device)).logits[0].double().cpu()


def _sizes(config: Any) -> tuple[int, int]:
    """Give the number of layers and the longest sum of a product; a model that also sees keeps them in text_config."""
    text = config.get_text_config()
    width = max(text.hidden_size, getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
    return text.num_hidden_layers, width
