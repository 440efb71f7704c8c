"""Batches without end, epoch after epoch, without the two seconds that mmengine's own iterator sleeps between epochs.

It sleeps for the sake of processes that load; a project's training has most often none, and a small one has many
epochs. Imported by XTuner's process alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def batches(loader: Any) -> Iterator[Any]:
    """Give a DataLoader's batches in mmengine's order: the sampler of epoch n is set to n.

    The first epoch's is left as it is: DistSamplerSeedHook sets it before the first batch is asked for.
    """
    epoch = 0
    while len(loader):
        yield from loader
        epoch += 1
        owner = loader.sampler if hasattr(loader.sampler, "set_epoch") else loader.batch_sampler.sampler
        if hasattr(owner, "set_epoch"):
            owner.set_epoch(epoch)


def without_pause(runner: Any) -> None:
    """Have a runner's training take its batches so, where no processes load them."""
    loop = runner.train_loop
    if loop.dataloader.num_workers == 0:
        loop.dataloader_iterator = batches(loop.dataloader)
