"""data: the datasets mixed, and split into training and held-out samples."""

from __future__ import annotations

import random
from typing import Any

from tunemake.contracts import Sample
from tunemake.faults import Fault, SampleError
from tunemake.samples import count_samples, read_samples, write_samples
from tunemake.stages import Job
from tunemake.stages.dataset import SAMPLES

TRAIN, HELD_OUT = "train.json", "held_out.json"


def run(job: Job) -> dict[str, Any]:
    """Write work/train.json and work/held_out.json.

    parameters: datasets (their names in order), held_out (share), seed. inputs: each dataset under its name.
    """
    mixed: list[Sample] = []
    for name in job.parameters["datasets"]:
        mixed += read_samples(job.inputs[name] / SAMPLES)
    train, held_out = split(mixed, job.parameters["held_out"], job.parameters["seed"])
    if not train:
        fault = Fault("data.held_out", "no samples are left to train on", got=f"{len(mixed)} samples in all")
        raise SampleError(fault)
    write_samples(job.work / TRAIN, train)
    write_samples(job.work / HELD_OUT, held_out)
    return {"train": count_samples(train), "held_out": count_samples(held_out)}


def split(samples: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Part samples into training and held-out ones, both in their old order.

    Equal conversations go to one side together, so that nothing held out was trained on.
    """
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(repr(sample["messages"]), []).append(index)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    for indices in order:
        if len(chosen) + len(indices) <= round(share * len(samples)):
            chosen.update(indices)
    train = [sample for index, sample in enumerate(samples) if index not in chosen]
    return train, [sample for index, sample in enumerate(samples) if index in chosen]
