"""NF4 with double quantisation, as bitsandbytes keeps a base in 4 bits, computed in numpy by blocks.

A matrix is quantised along its rows, 64 values at a time: each becomes the nearest of 16 levels times the block's
largest magnitude (Dettmers et al. 2023, QLoRA, appendix E). These magnitudes, less their mean, are quantised too: 256
at a time, each to the nearest of 256 numbers times the largest of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunemake.model_folder import DTYPE_NAMES
from tunemake.tensors import FLOATS

VALUES = 64  # in a block
SCALES = 256  # in a block of their own
_AT_ONCE = 256 * SCALES
_FLOAT = np.float32
_TYPES = {name: FLOATS[short] for short, name in DTYPE_NAMES.items()}
LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    _FLOAT,
)  # fmt: skip
_BOUNDS = (LEVELS[:-1] + LEVELS[1:]) / _FLOAT(2)


def _eight_bits() -> NDArray[np.float32]:
    """Give the 256 numbers for scales: signs, seven powers of ten, and ever more steps from 0.1 to 1 of each.

    As a float8 of which the exponent's length varies (Dettmers 2016, 8-Bit Approximations for Parallelism).
    """
    found = [0.0, 1.0]
    for exponent in range(7):
        count = 2**exponent
        step, order = float(_FLOAT(_FLOAT(1) - _FLOAT(0.1)) / _FLOAT(count)), np.arange(count + 1)
        # As torch.linspace does: from both ends to the middle, a product and a sum rounded once.
        edges = np.where(order < (count + 1) // 2, float(_FLOAT(0.1)) + step * order, 1 - step * (count - order))
        edges = edges.astype(_FLOAT)
        middles = (edges[:-1] + edges[1:]) / _FLOAT(2) * _FLOAT(10.0 ** (exponent - 6))
        found += [*middles.tolist(), *(-middles).tolist()]
    return np.sort(np.array(found, _FLOAT))


EIGHT_BITS = _eight_bits()
_EIGHT_BOUNDS = (EIGHT_BITS[:-1] + EIGHT_BITS[1:]) / _FLOAT(2)


@dataclass(frozen=True)
class Scales:
    """The magnitude of each block of a matrix: as it was, by which levels are chosen, and as it comes back."""

    exact: NDArray[np.float32]
    kept: NDArray[np.float32]


def largest(values: NDArray[np.float32], block: int = VALUES) -> NDArray[np.float32]:
    """Give the largest magnitude of each block; the last may be shorter."""
    return np.maximum.reduceat(np.abs(values), np.arange(0, values.size, block))


def scales_of(exact: NDArray[np.float32]) -> Scales:
    """Quantise the magnitudes of all of a matrix's blocks, and give them beside what comes back."""
    mean, kept = _FLOAT(exact.mean(dtype=np.float64)), np.empty_like(exact)
    for first in range(0, exact.size, _AT_ONCE):
        rest = exact[first : first + _AT_ONCE] - mean
        each = np.repeat(largest(rest, SCALES), SCALES)[: rest.size]
        scaled = rest * _inverse(each)
        kept[first : first + _AT_ONCE] = EIGHT_BITS[np.searchsorted(_EIGHT_BOUNDS, scaled)] * each + mean
    return Scales(exact, kept)


def through(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Give values as a type keeps them (float32, bfloat16 or float16): the base's, loaded for a training in it."""
    with np.errstate(over="ignore"):  # beyond float16 it becomes infinite, as it did in the training
        return values.astype(_TYPES[dtype]).astype(_FLOAT, copy=False)


def dequantised(values: NDArray[np.float32], first: int, scales: Scales) -> NDArray[np.float32]:
    """Give what becomes of values in 4 bits; the first is that number of its matrix, counted along the rows."""
    begin, lead = divmod(first, VALUES)
    part = slice(begin, -(-(first + values.size) // VALUES))

    def each(of_blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.repeat(of_blocks, VALUES)[lead : lead + values.size]

    scaled = values * each(_inverse(scales.exact[part]))
    # Fifteen comparisons in a core's cache take a tenth of the time of a binary search.
    level = np.zeros(values.size, np.uint8)
    for bound in _BOUNDS:
        level += scaled > bound
    return LEVELS[level] * each(scales.kept[part])


def _inverse(magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give 1 / magnitudes; of a block of zeros 0, which leaves them zeros."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(magnitudes > 0, _FLOAT(1) / magnitudes, _FLOAT(0))
