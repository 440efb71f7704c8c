"""data: the datasets mixed, and split into training and held-out samples."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunemake.faults import Fault, SampleError
from tunemake.samples import read_lines, write_samples
from tunemake.stages import Job
from tunemake.stages.dataset import SAMPLES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAIN, HELD_OUT = "train", "held_out"


def run(job: Job) -> dict[str, Any]:
    """Write work/train and work/held_out, as .json or .jsonl.

    parameters: datasets (their names in order), held_out (share), seed, format. inputs: each dataset under its name.
    """
    files = [job.inputs[name] / SAMPLES for name in job.parameters["datasets"]]
    held = held_out(keys(_lines(files), job.parameters["seed"]), job.parameters["held_out"])
    if held.all():
        fault = Fault("data.held_out", "no samples are left to train on", got=f"{len(held)} samples in all")
        raise SampleError(fault)
    suffix = job.parameters["format"]
    train = write_samples(job.work / f"{TRAIN}.{suffix}", compress(_lines(files), ~held))
    kept = write_samples(job.work / f"{HELD_OUT}.{suffix}", compress(_lines(files), held))
    return {"train": train.counts(), "held_out": kept.counts()}


def samples_file(folder: Path, name: str) -> Path:
    """Find a data artifact's file of training (TRAIN) or held-out (HELD_OUT) samples, whatever its format."""
    return next(path for path in (folder / f"{name}.json", folder / f"{name}.jsonl") if path.exists())


def keys(lines: Iterable[bytes], seed: int) -> array[int]:
    """Give a 64-bit key for each sample, equal for equal conversations; the seed changes their order."""
    from orjson import loads
    from xxhash import xxh3_64_intdigest

    found = array("Q")
    for line in lines:
        turns = [turn for message in loads(line)["messages"] for turn in (message["role"], message["content"])]
        found.append(xxh3_64_intdigest("\0".join(turns).encode(), seed))
    return found


def held_out(of: array[int], share: float) -> NDArray[np.bool_]:
    """Say of each sample whether it is held out.

    Equal conversations go to one side together, so that nothing held out was trained on; those with the lowest keys
    are held out, as many as the share of all samples allows.
    """
    import numpy as np

    every = np.frombuffer(of, np.uint64)
    unlike, counts = np.unique(every, return_counts=True)  # in order of key, which is as good as chance
    room, chosen = round(share * len(every)), np.zeros(len(unlike), bool)
    for index in range(len(unlike)):
        if room <= 0:
            break
        if counts[index] <= room:
            chosen[index] = True
            room -= int(counts[index])
    return np.isin(every, unlike[chosen])


def _lines(files: Iterable[Path]) -> Iterator[bytes]:
    for file in files:
        yield from read_lines(file)
