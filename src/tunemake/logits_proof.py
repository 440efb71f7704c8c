"""Proof that a merged model answers as base and adapter do: logits of both, once both are loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tunemake.faults import Fault

# Rounding to nearest is off by at most this share of the value: 2^-p with p bits of precision.
UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SITES = 10  # of a layer: seven products, two normalisations, the sums onto the residual stream
SAFETY = 3.0


def tolerance(config: Any, stored: str, computed: str) -> float:
    """Give how far logits may part, as root mean square, relative to their spread: no unit.

    config: transformers' of the model. stored: the dtype that merged weights were rounded to; computed: the one of
    the products, both as torch names them.

    Rounding to u gives values of any mantissa a relative error of u / √6 as root mean square: it is even within half
    a unit, and 1/m² is 1/2 on average over mantissas m in [1, 2). A product takes on such errors of its weights as
    they are, for its terms and their independent errors both add by their squares. So each result of the merged model
    is off by u(stored) / √6 for its weights; that of both by u(computed) / √6 for being rounded, and by √K · 2^-24
    where K terms are summed in float32 (Higham and Mary 2019, A New Approach to Probabilistic Rounding Error
    Analysis). A normalised residual stream hands relative errors on, so that n = 10 results of each of L layers and
    one of the output give at most √(10 L + 1) of it. Three times that is allowed, since attention sharpens and errors
    are not quite independent.
    """
    layers, width = _sizes(config)
    rounded = (UNITS[stored] ** 2 + 2 * UNITS[computed] ** 2) / 6
    each = math.sqrt(rounded + 2 * width * UNITS["float32"] ** 2)
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
    return held_against(both_logits(adapted, rows), merged, rows, stored=stored)


def both_logits(adapted: Any, rows: Sequence[Sequence[int]]) -> list[tuple[Any, Any]]:
    """Give for each row the logits with the adapter and without it, in float32 on the CPU.

    With them the model can go before the merged one is loaded. adapted, rows: as logits_faults takes them.
    """
    import torch

    found = []
    with _evaluating(adapted), torch.inference_mode():
        for row in rows:
            here = _logits(adapted, row)
            with adapted.disable_adapter():
                found.append((here, _logits(adapted, row)))
    return found


def held_against(
    both: Sequence[tuple[Any, Any]], merged: Any, rows: Sequence[Sequence[int]], *, stored: str
) -> tuple[list[Fault], dict[str, Any]]:
    """Compare what both_logits gave with the merged model's logits, as logits_faults does."""
    import torch

    with _evaluating(merged), torch.inference_mode():
        told = [_row(*pair, _logits(merged, row)) for pair, row in zip(both, rows, strict=True)]
    computed = str(merged.dtype).removeprefix("torch.")
    deviations = [row["deviation"] for row in told]
    positions = sum(row["positions"] for row in told)
    facts = {
        "deviation": math.inf if any(map(math.isnan, deviations)) else max(deviations),
        "tolerance": tolerance(merged.config, stored, computed),
        "effect": max(row["effect"] for row in told),
        "argmax_agreement": sum(row["same"] for row in told) / positions,
        "positions": positions,
    }
    return _faults(facts), facts


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _faults(facts: Mapping[str, Any]) -> list[Fault]:
    agreement = f"the likeliest token agrees at {facts['argmax_agreement']:.1%} of {facts['positions']} positions"
    got = f"{facts['deviation']:.2e} of their spread ({agreement})"
    if not facts["deviation"] <= facts["tolerance"]:  # what is not finite is no agreement
        return [Fault("merge", "logits part from those of base and adapter", f"at most {facts['tolerance']:.2e}", got)]
    if facts["effect"] > facts["tolerance"] and facts["deviation"] >= facts["effect"]:
        return [Fault("merge", "logits are no nearer to the adapter's than the base's are", got=got)]
    return []


def _row(here: Any, plain: Any, there: Any) -> dict[str, Any]:
    """Compare a row's logits: of base and adapter, of the base alone, and of the merged model."""
    here, plain, there = here.double(), plain.double(), there.double()  # float32 would lose what is compared
    spread = float((here - here.mean(dim=-1, keepdim=True)).square().mean().sqrt())

    def apart(other: Any) -> float:
        return float((other - here).square().mean().sqrt()) / spread if spread else math.nan

    same = int((here.argmax(dim=-1) == there.argmax(dim=-1)).sum())
    return {"deviation": apart(there), "effect": apart(plain), "same": same, "positions": len(here)}


def _logits(model: Any, row: Sequence[int]) -> Any:
    import torch

    return model(input_ids=torch.tensor([list(row)], device=model.device)).logits[0].float().cpu()


def _sizes(config: Any) -> tuple[int, int]:
    """Give the number of layers and the longest sum of a product; a model that also sees keeps them in text_config."""
    text = config.get_text_config()
    width = max(text.hidden_size, getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
    return text.num_hidden_layers, width
