"""Between which values a weight must lie that comes back from 4 bits: NF4 reckoned anew, in float64, without nf4.py.

Whatever lies so near to a bound between two levels that float32 may take either, may be either.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tunemake.tensors import BYTES, FLOATS, Files, Tensor

_BLOCK, _NESTED = 64, 256
_AT_ONCE = 2048 * _BLOCK  # values, for which a core's cache has room
_NEAR = 2.0**-20  # of 1: float32's roundings of a quotient and a difference, and some room
_SHORT = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# The quantiles of a normal distribution, from the QLoRA paper's appendix E.
_LEVELS = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip


def _numbers() -> NDArray[np.float64]:
    """Give the 256 numbers of 8 bits: of each of seven powers of ten, the middles of 1, 2, 4, … steps from 0.1 to 1."""
    found = [
        10.0**power * (0.1 + 0.9 * (step + 0.5) / steps)
        for power, steps in ((exponent - 6, 2**exponent) for exponent in range(7))
        for step in range(steps)
    ]
    return np.sort(np.array([*found, *(-number for number in found), 0.0, 1.0]))


_NUMBERS = _numbers()
Range = tuple[NDArray[np.float64], NDArray[np.float64]]


class Dequantised:
    """A matrix's values after 4 bits, as ranges; its blocks' magnitudes are read once, block by block.

    precision: in which the matrix was loaded, and came back: float32, bfloat16 or float16.
    """

    def __init__(self, files: Files, source: Tensor, precision: str) -> None:
        self.files, self.source, self.dtype = files, source, FLOATS[_SHORT[precision]]
        self.tops = np.concatenate(list(self._tops()))
        self.mean = float(self.tops.mean(dtype=np.float64))

    def rows(self, rows: NDArray[np.int64]) -> Range:
        """Give the lowest and the highest value that each of some rows' may have."""
        columns = self.source.shape[1]
        found = [self._part(row * columns, columns) for row in rows.tolist()]
        return np.stack([low for low, _ in found]), np.stack([high for _, high in found])

    def _part(self, first: int, count: int) -> Range:
        outer, blocks = first // _BLOCK // _NESTED * _NESTED, np.arange(first, first + count) // _BLOCK
        end = -(-(int(blocks[-1]) + 1) // _NESTED) * _NESTED  # a block of scales is whole, or the matrix's last
        near = self.tops[outer:end].astype(np.float64)
        tops, kept = near[blocks - outer], _kept(near, self.mean)
        scaled = np.divide(self._loaded(first, count), tops, out=np.zeros(count), where=tops > 0)
        sides = [level * scale[blocks - outer] for level in _nearest(_LEVELS, scaled, _NEAR) for scale in kept]
        room = np.abs(sides[0]) * 2.0**-23  # the product's own rounding
        low, high = np.minimum.reduce(sides) - room, np.maximum.reduce(sides) + room
        return self._rounded(low), self._rounded(high)

    def _rounded(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            return values.astype(np.float32).astype(self.dtype).astype(np.float64)

    def _tops(self) -> Iterator[NDArray[np.float32]]:
        for first in range(0, self.source.count, _AT_ONCE):
            values = np.abs(self._loaded(first, min(_AT_ONCE, self.source.count - first)))
            missing = -values.size % _BLOCK
            yield np.pad(values, (0, missing)).reshape(-1, _BLOCK).max(axis=1)

    def _loaded(self, first: int, count: int) -> NDArray[np.float32]:
        width, stored = BYTES[self.source.dtype], FLOATS[self.source.dtype]
        raw = np.empty(count * width, np.uint8)
        self.files.read(self.source, first * width, raw)
        values = raw.view(stored)
        if stored != self.dtype:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32).astype(self.dtype)
        return values.astype(np.float32)


def _kept(tops: NDArray[np.float64], mean: float) -> Range:
    """Give the lowest and the highest that each block's magnitude may be after its own 8 bits; mean: of all."""
    filled = np.zeros(-(-tops.size // _NESTED) * _NESTED)
    filled[: tops.size] = tops - mean
    nested = filled.reshape(-1, _NESTED)
    each = np.abs(nested).max(axis=1, keepdims=True)
    # The mean is rounded to float32 before it is taken away, which counts where all magnitudes are nearly equal.
    near = np.divide(2.0**-22 * mean, each, out=np.zeros_like(each), where=each > 0) + _NEAR
    scaled = np.divide(nested, each, out=np.zeros_like(nested), where=each > 0)
    room = 2.0**-21 * (mean + each)
    low, high = (number * each + mean for number in _nearest(_NUMBERS, scaled, near))
    return (low - room).reshape(-1)[: tops.size], (high + room).reshape(-1)[: tops.size]


def _nearest(
    numbers: NDArray[np.float64], values: NDArray[np.float64], near: float | NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the number nearest to each value, twice: where it may lie by `near` lower, and by as much higher."""
    bounds = (numbers[:-1] + numbers[1:]) / 2
    return numbers[np.searchsorted(bounds, values - near)], numbers[np.searchsorted(bounds, values + near)]
