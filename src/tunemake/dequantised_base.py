"""The base that a QLoRA adapter was trained against: its linear weights as they come back from 4 bits, by blocks."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunemake import nf4
from tunemake.tensors import BYTES, FLOATS, Files, Tensor

_BLOCK = 2048 * nf4.VALUES
_KEPT = 4  # matrices whose scales are remembered: as many as threads write at once


@dataclass
class _Entry:
    scales: nf4.Scales | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class DequantisedBase:
    """Gives a base's values as a training in 4 bits had them, to several threads; counts how far that moved them.

    names: of the weights that the training kept in 4 bits. precision: of the training: float32, bfloat16 or float16.
    A matrix's scales need all of it once before any of its values; they take an eighth of a byte for each.
    """

    def __init__(self, names: Collection[str], precision: str) -> None:
        self.names, self.precision = frozenset(names), precision
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._squares: list[tuple[float, float]] = []

    def values(self, files: Files, source: Tensor, given: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        """Give what given, values of source from its number first on, were in the training."""
        loaded = nf4.through(given, self.precision)
        made = nf4.through(nf4.dequantised(loaded, first, self._scales(files, source)), self.precision)
        moved, whole = (made - given).astype(np.float64), given.astype(np.float64)
        self._squares.append((float(moved @ moved), float(whole @ whole)))
        return made

    def distance(self) -> float:
        """Give the size of the change beside that of the weights: ‖dequantised - base‖ / ‖base‖, of all asked for."""
        moved, whole = (math.fsum(side) for side in zip(*self._squares, strict=True)) if self._squares else (0.0, 0.0)
        return math.sqrt(moved / whole) if whole else 0.0

    def _scales(self, files: Files, source: Tensor) -> nf4.Scales:
        with self._lock:
            entry = self._entries.setdefault(source.name, _Entry())
            self._entries.move_to_end(source.name)
            while len(self._entries) > _KEPT:
                self._entries.popitem(last=False)
        with entry.lock:  # of several threads that write one matrix, one reads it and the others wait
            if entry.scales is None:
                entry.scales = nf4.scales_of(np.concatenate(list(magnitudes(files, source, self.precision))))
            return entry.scales


def magnitudes(files: Files, source: Tensor, precision: str) -> Iterator[NDArray[np.float32]]:
    """Give the largest magnitude of each of a matrix's blocks of 64 values, loaded in precision, many at a time."""
    dtype = FLOATS[source.dtype]
    for first in range(0, source.count, _BLOCK):
        raw = np.empty(min(_BLOCK, source.count - first) * BYTES[source.dtype], np.uint8)
        files.read(source, first * BYTES[source.dtype], raw)
        yield nf4.largest(nf4.through(raw.view(dtype).astype(np.float32), precision))


def dequantise_loaded(model: Any, names: Iterable[str], precision: str) -> None:
    """Give weights of a model of torch's the values that they had in a training in 4 bits, on whatever device."""
    import torch

    for name in names:
        weight = model.get_parameter(name)
        loaded = nf4.through(weight.detach().float().cpu().numpy().reshape(-1), precision)
        made = nf4.through(nf4.dequantised(loaded, 0, nf4.scales_of(nf4.largest(loaded))), precision)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(made).reshape(weight.shape))
