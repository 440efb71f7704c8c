"""What a training tells of its iterations, read from the GPU now and then rather than after each.

To read a number is to wait until the GPU has done all that it was asked for, and then the GPU waits: for the hooks, the
log and the next batch. (An iteration itself still asks what is padding and what is trained.) Imported by XTuner's
process alone.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook, LoggerHook, RuntimeInfoHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from torch import Tensor

from tunemake.engines.xtuner import METRICS
from tunemake.json_lines import append_all, keep_until


class _Iteration(NamedTuple):
    """What is to be told of an iteration. loss: a number on the device; tokens: trained on, and with their padding."""

    done: int
    lr: float
    loss: Tensor
    tokens: tuple[int, int]


class MetricsHook(Hook):  # type: ignore[misc]
    """Writes JSON lines: iteration, iterations (in all), loss, lr, tokens, padded_tokens, seconds, peak_bytes.

    loss: the mean over the processes. every: iterations between two lines. pace: seconds between two times that numbers
    are read, at the end of a step; 0 reads them after every iteration. at: after multiples of these iterations they are
    read as well, since something is saved, decided or asked by then.
    """

    priority = "ABOVE_NORMAL"  # before LoggerHook, which begins to count the peak anew

    def __init__(self, every: int = 1, pace: float = 0, at: Sequence[int] = ()) -> None:
        self.every, self.pace, self.at = every, pace, at
        self.due = True  # whether the numbers of all iterations so far have been read
        self.lines = 0  # written at the last read
        self._waiting: list[_Iteration] = []
        self._started = self._lr = 0.0
        self._next = 0

    def before_train(self, runner: Any) -> None:
        """Drop what a killed run had written beyond the checkpoint that this one goes on from."""
        if is_main_process():
            keep_until(Path(runner.work_dir) / METRICS, runner.iter)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock, and note the learning rate that the iteration has."""
        if not self._waiting:  # what other hooks do between a read and this is none of the training's time
            self._started = time.perf_counter()
        self._lr = float(runner.optim_wrapper.get_lr()["lr"][0])

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note the iteration, and read those noted where it is time."""
        done, mask = runner.iter + 1, data_batch["data"]["attention_mask"]
        loss = outputs["loss"].detach().float().clone()
        self._waiting.append(_Iteration(done, self._lr, loss, (int(mask.sum()), mask.numel())))
        last = done == runner.max_iters
        self.due = not self.pace or last or done >= self._next or any(done % one == 0 for one in self.at)
        if self.due:
            self._read(runner, done)

    def _read(self, runner: Any, done: int) -> None:
        waiting, self._waiting = self._waiting, []
        losses = torch.stack([one.loss for one in waiting])
        all_reduce(losses, "mean")
        read = losses.tolist()
        seconds = (time.perf_counter() - self._started) / len(waiting)
        # The first process's clock says for all of them when to read again.
        ahead = math.ceil(self.pace / max(seconds, 1e-3)) if is_main_process() else 0
        counts = torch.tensor([*(one.tokens for one in waiting), (ahead, 0)])
        all_reduce(counts)  # over the processes, each of which has samples of its own
        step = accumulation(runner)
        self._next = (done + max(1, int(counts[-1, 0])) + step - 1) // step * step
        _tell_mmengine(runner, read if self.pace else [])
        peak = _peak_bytes()
        lines = [
            {
                "iteration": one.done, "iterations": runner.max_iters, "loss": loss, "lr": one.lr, "tokens": tokens,
                "padded_tokens": padded, "seconds": round(seconds, 4), "peak_bytes": peak,
            }
            for one, loss, (tokens, padded) in zip(waiting, read, counts[:-1].tolist(), strict=True)
            if one.done % self.every == 0 or one.done == runner.max_iters
        ]  # fmt: skip
        self.lines = len(lines)
        if lines and is_main_process():
            append_all(Path(runner.work_dir) / METRICS, lines)


@HOOKS.register_module()
class PacedRuntimeHook(RuntimeInfoHook):  # type: ignore[misc]
    """mmengine's own, which leaves what an iteration came to with MetricsHook."""

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Read nothing."""


@HOOKS.register_module()
class PacedLoggerHook(LoggerHook):  # type: ignore[misc]
    """mmengine's own, which logs where MetricsHook has written a line."""

    def after_train_iter(self, runner: Any, *args: Any, **named: Any) -> None:
        """Log, or leave it."""
        if all(hook.due and hook.lines for hook in _metrics(runner)):
            super().after_train_iter(runner, *args, **named)


@OPTIM_WRAPPERS.register_module()
class PacedOptimWrapper(OptimWrapper):  # type: ignore[misc]
    """mmengine's own, which leaves the norms of gradients on the device. norms: those of the steps not read yet."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.norms: list[Tensor] = []

    def _clip_grad(self) -> None:
        held = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = self.clip_func(held, **self.clip_grad_kwargs) if held else None
        if norm is not None:
            self.norms.append(norm)


def is_due(runner: Any) -> bool:
    """Say whether the numbers of all iterations so far have been read."""
    return all(hook.due for hook in _metrics(runner))


def _metrics(runner: Any) -> list[MetricsHook]:
    return [hook for hook in runner.hooks if isinstance(hook, MetricsHook)]


def accumulation(runner: Any) -> int:
    """Give the iterations in a step; under DeepSpeed its own engine counts them."""
    wrapper = runner.optim_wrapper
    if hasattr(wrapper, "_accumulative_counts"):
        return int(wrapper._accumulative_counts)  # noqa: SLF001 - it has no other name
    return int(runner.model.model.gradient_accumulation_steps())


def _tell_mmengine(runner: Any, losses: Sequence[float]) -> None:
    """Give mmengine's log what its own hook and optimizer wrapper have not."""
    for loss in losses:
        runner.message_hub.update_scalar("train/loss", loss)
    norms = getattr(runner.optim_wrapper, "norms", [])
    for norm in torch.stack(norms).tolist() if norms else []:
        runner.message_hub.update_scalar("train/grad_norm", norm)
    norms.clear()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
