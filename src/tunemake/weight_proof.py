"""What each weight of a merged model must be, told from base and adapter anew, and held against what was written.

Nothing here comes from the code that merges: factors, scales and orientation are read again from the adapter's files,
sums are made in float64. Rows are sampled, so that time and memory stay small beside the merge.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunemake.faults import Fault, ModelError
from tunemake.nf4_proof import Dequantised, Range
from tunemake.tensors import BYTES, FLOATS, Files, Tensor, read_header

SAMPLED = 16_384  # values of one weight; all of a smaller one
BLOCK = 1_048_576  # values compared at once where a whole tensor is
SEED = 20_250
UNIT = 2.0**-24  # float32's unit roundoff
SMALLEST = 2.0**-126  # float32's smallest normal value
_PART = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?"
)


@dataclass(frozen=True)
class Claim:
    """What an adapter says of one weight: it is `whole`, or the base's, and scale · B·A is added where there are A, B.

    across: the product lies transposed in the weight, as an embedding's does; None: its shape or the config decides.
    """

    whole: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    across: bool | None = None


@dataclass
class Tally:
    """What was seen of the changed weights: how many values of how many weights, and how far they lie off.

    whole: how many others were compared in all their values.

    deviation: the largest distance from the float64 result. change: the largest that the adapter adds.
    """

    weights: int = 0
    whole: int = 0
    values: int = 0
    deviation: float = 0.0
    change: float = 0.0
    differs: bool = False
    nonzero: bool = False


def read_claims(adapter: Path) -> tuple[dict[str, Claim], dict[str, Any]]:
    """Give what an adapter's folder says by the weight's name, and its config; ModelError where it cannot be read."""
    path = adapter / "adapter_config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(Fault(str(path), f"cannot be read: {error}")) from error
    parts: dict[str, dict[str, Tensor]] = {}
    across: set[str] = set()
    for name, tensor in read_header(adapter / "adapter_model.safetensors").items():
        found = _PART.fullmatch(name)
        weight = f"{found['module']}.weight" if found else name.removeprefix("base_model.model.")
        weight = weight.replace(".base_layer.", ".")
        parts.setdefault(weight, {})[found["side"] if found else "whole"] = tensor
        if found and found["embedding"]:
            across.add(weight)
    claims = {}
    for weight, told in parts.items():
        scale = _scale(config, weight.removesuffix(".weight"), told["A"].shape[0]) if "A" in told else 1.0
        flip = True if weight in across else None
        claims[weight] = Claim(told.get("whole"), told.get("A"), told.get("B"), scale, flip)
    return claims, config


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Give alpha / r, or alpha / √r where rank-stabilised (Kalajdzievski 2023); r is what A really has."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
            alpha = value
            break
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


class WeightProof:
    """Holds written weights against what they must be; `tally` says what was seen."""

    def __init__(self, files: Files, *, fan_in_fan_out: bool = False) -> None:
        self.files, self.fan_in_fan_out, self.tally = files, fan_in_fan_out, Tally()
        self.random = np.random.default_rng(SEED)

    def unlike(self, written: Tensor, source: Tensor) -> Iterator[tuple[int, int]]:
        """Give, block by block, the first value that is not the source's after the cast, and how many are not.

        Values compare by their bytes, so that -0 is not 0 and NaN is NaN; a cast goes by float32, as the merge's.
        """
        for first in range(0, written.count, BLOCK):
            count = min(BLOCK, written.count - first)
            there, here = self._raw(source, first, count), self._raw(written, first, count)
            if source.dtype != written.dtype:
                there = _cast(there.view(FLOATS[source.dtype]), written.dtype).view(np.uint8)
            if not np.array_equal(there, here):
                width = BYTES[written.dtype]
                wrong = (there != here).reshape(-1, width).any(axis=1)
                yield first + int(np.argmax(wrong)), int(wrong.sum())

    def changed(
        self, name: str, written: Tensor, source: Tensor, claim: Claim, precision: str | None = None
    ) -> Fault | None:
        """Compare sampled rows of a weight with source + scale · B·A; precision: with the source after 4 bits, if any.

        A merge in float32 gives y with |y - x| ≤ e of the exact x = w + s·Σ B·A of r products. A sum of r products
        in float32, in any order, is off by at most γ(r) Σ|B·A|, with γ(n) = n·u / (1 - n·u) and u = 2^-24 (Higham,
        Accuracy and Stability of Numerical Algorithms, 3.1); rounding s and multiplying by it are two roundings more,
        adding it to w is one: e = γ(r + 3) |s| Σ|B·A| + 2u |w|, and for products that underflow 2^-126 each. Rounding
        to the written dtype keeps order, so what is written lies between the rounded x - e and the rounded x + e:
        exactly so, for subnormals too. Of a source that went through 4 bits, x has the two ends that w has.
        """
        rows, left, right = self._factors(written, claim)
        if left is None or right is None:
            return Fault("merge", f"{name}: A and B do not fit the weight {list(written.shape)}")
        lowest, highest = self._between(source, rows, precision)
        w, got = (lowest + highest) / 2, self._rows(written, rows)
        added = claim.scale * (left @ right)
        n = left.shape[1] + 3
        error = n * UNIT / (1 - n * UNIT) * abs(claim.scale) * (np.abs(left) @ np.abs(right)) + 2 * UNIT * np.abs(w)
        error += n * max(1.0, abs(claim.scale)) * SMALLEST
        ends = (lowest + added - error, highest + added + error)
        low, high = (_cast(side, written.dtype).astype(np.float64) for side in ends)
        wrong = ~((low <= got) & (got <= high))
        same = np.array_equal(got, _cast(w, written.dtype).astype(np.float64))
        with np.errstate(invalid="ignore"):  # what is not finite is never between low and high
            self._count(np.abs(got - w - added), added, same=same)
        if not wrong.any():
            return None
        return _unlike_sum(name, got - w, added, wrong, same=same, scale=claim.scale)

    def dequantised(self, name: str, written: Tensor, source: Tensor, precision: str) -> Fault | None:
        """Compare sampled rows of a weight that only went through 4 bits with what these leave of the source."""
        rows = self._sample(*written.shape)
        low, high = (_cast(side, written.dtype).astype(np.float64) for side in self._between(source, rows, precision))
        got = self._rows(written, rows)
        wrong = int((~((low <= got) & (got <= high))).sum())
        self._count(np.abs(got - (low + high) / 2), np.zeros(0), same=True)
        what = f"{name} is not the base's, dequantised from 4 bits: {wrong} of {got.size} sampled values differ"
        return Fault("merge", what) if wrong else None

    def _between(self, source: Tensor, rows: NDArray[np.int64], precision: str | None) -> Range:
        """Give the lowest and the highest that each value of some rows may be: twice the same, but after 4 bits."""
        if precision is not None:
            return Dequantised(self.files, source, precision).rows(rows)
        return self._rows(source, rows), self._rows(source, rows)

    def _count(self, deviation: NDArray[np.float64], added: NDArray[np.float64], *, same: bool) -> None:
        tally = self.tally
        tally.weights, tally.values = tally.weights + 1, tally.values + deviation.size
        tally.deviation = max(tally.deviation, float(deviation.max(initial=0)))
        tally.change = max(tally.change, float(np.abs(added).max(initial=0)))
        tally.differs |= not same

    def _factors(
        self, weight: Tensor, claim: Claim
    ) -> tuple[NDArray[np.int64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Give sampled rows of a weight, and the factors of their product; None where these do not fit."""
        nothing = np.empty(0, np.int64), None, None
        if claim.a is None or claim.b is None or len(weight.shape) != 2:  # noqa: PLR2004 - a matrix
            return nothing
        a, b = self.files.load(claim.a), self.files.load(claim.b)
        self.tally.nonzero |= bool(a.any() and b.any())
        straight = (b.shape[0], a.shape[1])
        across = claim.across
        if across is None:
            across = self.fan_in_fan_out if straight[0] == straight[1] else straight != weight.shape
        left, right = (a.T, b.T) if across else (b, a)
        if (left.shape[0], right.shape[1]) != weight.shape:
            return nothing
        rows = self._sample(*weight.shape)
        return rows, left[rows].astype(np.float64), right.astype(np.float64)

    def _sample(self, count: int, columns: int) -> NDArray[np.int64]:
        """Give rows, all where there are few, the first and the last among them."""
        wanted = max(2, SAMPLED // max(1, columns))
        if wanted >= count:
            return np.arange(count)
        inner = self.random.choice(np.arange(1, count - 1), wanted - 2, replace=False)
        return np.sort(np.concatenate([[0, count - 1], inner]))

    def _rows(self, tensor: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        columns = tensor.shape[1]
        found = np.empty((len(rows), columns), FLOATS[tensor.dtype])
        width = columns * found.itemsize
        for into, row in zip(found, rows.tolist(), strict=True):
            self.files.read(tensor, row * width, into.view(np.uint8))
        return found.astype(np.float64)

    def _raw(self, tensor: Tensor, first: int, count: int) -> NDArray[np.uint8]:
        width = BYTES[tensor.dtype]
        raw = np.empty(count * width, np.uint8)
        self.files.read(tensor, first * width, raw)
        return raw


def _cast(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Round to the nearest values of a dtype, by way of float32, whose order rounding twice keeps."""
    with np.errstate(over="ignore"):  # beyond float16 it becomes infinite on both sides
        return values.astype(np.float32).astype(FLOATS[dtype])


def _unlike_sum(
    name: str, difference: NDArray[np.float64], added: NDArray[np.float64], wrong: NDArray[np.bool_], *, same: bool,
    scale: float,
) -> Fault:  # fmt: skip
    if same:
        step = "merge again; if it comes back, the merge has an error"
        return Fault("merge", f"{name} is the base's: the merge exported the base", next_step=step)
    # The factor that the written change has to the one expected, by least squares.
    squares = float((added * added).sum())
    fitted = scale * float((difference * added).sum()) / squares if squares else math.nan
    what = (
        f"{name} is not base + scale · B·A: {int(wrong.sum())} of {wrong.size} sampled values lie outside the rounding"
    )
    return Fault("merge", what, f"scale {scale:.4g}", f"about {fitted:.3g} by least squares")
