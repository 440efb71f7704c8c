"""What a rendered XTuner config names of ours: the tokenizer, and hooks for metrics and answers.

Imported by XTuner's process alone; imports mmengine and torch.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import LinearLR
from mmengine.registry import PARAM_SCHEDULERS, VISUALIZERS
from mmengine.visualization import Visualizer
from xtuner.registry import BUILDER

from tunemake.contracts import Message
from tunemake.engines import fellows
from tunemake.engines.trackers import tracker
from tunemake.engines.xtuner_batches import without_pause
from tunemake.engines.xtuner_metrics import MetricsHook, accumulation, is_due
from tunemake.engines.xtuner_tokenizer import load_tokenizer
from tunemake.generation import Answers
from tunemake.json_lines import append, keep_until
from tunemake.prompts import from_xtuner

__all__ = [
    "AnswersHook", "MetricsHook", "SeedHook", "StopHook", "Trackers", "WarmUp", "answering", "load_tokenizer",
]  # fmt: skip

ANSWERS = "answers.jsonl"
STOPPED = ".stopped"  # names of checkpoints that StopHook saved, one a line


@VISUALIZERS.register_module()
class Trackers(Visualizer):  # type: ignore[misc]
    """Sends a training's curves to trackers beside our own metrics. names: as project.toml's; project: what they show.

    What they write goes to the folder that TUNEMAKE_TRACKING names, which is no part of the artifact.
    """

    def __init__(self, name: str, names: list[str], project: str, **_: Any) -> None:
        super().__init__(name, vis_backends=[tracker(one, project) for one in names])


@PARAM_SCHEDULERS.register_module()
class WarmUp(LinearLR):  # type: ignore[misc]
    """mmengine's linear warm-up over at least two iterations.

    Over a single one it would leave the learning rate at its start for the whole training: the factor of its only
    iteration is the start factor, and nothing takes it back.
    """

    def __init__(self, optimizer: Any, *args: Any, begin: int = 0, end: int = 2, **options: Any) -> None:
        super().__init__(optimizer, *args, begin=begin, end=max(end, begin + 2), **options)


class SeedHook(Hook):  # type: ignore[misc]
    """Seeds each iteration by its number, so that dropout is the same whatever paused and resumed before."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Take batches without mmengine's pauses."""
        without_pause(runner)
        _end_useless_warm_up(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed torch's generators; the order of samples has a generator of its own."""
        torch.manual_seed((runner.seed * 1_000_003 + runner.iter * runner.world_size + runner.rank) % 2**63)


class StopHook(Hook):  # type: ignore[misc]
    """Saves a checkpoint and ends the training when it is told to end (SIGTERM), at the end of a step that is read.

    The checkpoint's iteration is noted, so that one beside the regular ones goes when the training has ended.
    """

    priority = "LOWEST"  # after CheckpointHook, which may have saved this iteration

    def __init__(self) -> None:
        self._asked = False

    def before_train(self, runner: Any) -> None:
        """Look after the other processes, and listen."""
        fellows.end_with_fellows()
        runner.save_checkpoint = fellows.whole(runner.save_checkpoint)
        signal.signal(signal.SIGTERM, self._ask)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """End where it was asked for, and no step is half done."""
        done = runner.iter + 1
        if done % accumulation(runner) or not is_due(runner):
            return
        asked = torch.tensor([int(self._asked)])
        all_reduce(asked, "max")  # the processes hear of it at different iterations, and save together
        if not asked:
            return
        name = f"iter_{done}.pth"
        saved = [(Path(runner.work_dir) / name).exists()]
        broadcast_object_list(saved)  # one of them may begin to write before another looks
        if not saved[0]:
            if is_main_process():
                with (Path(runner.work_dir) / STOPPED).open("a") as file:
                    file.write(f"{name}\n")
            runner.save_checkpoint(
                runner.work_dir, name, by_epoch=False, meta={"epoch": runner.epoch, "iter": done},
            )  # fmt: skip
        fellows.leave()
        raise SystemExit(128 + signal.SIGTERM)

    def _ask(self, _number: int, _frame: object) -> None:
        self._asked = True


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Let a model in training answer: no dropout, a cache, and the generators as they were when it has.

    model: XTuner's SupervisedFinetune.
    """
    training, cached = model.training, model.llm.config.use_cache
    checkpointing = bool(getattr(model.llm, "is_gradient_checkpointing", False))
    # mmengine seeds the global generators, so these are what must come out as they were.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    model.eval()
    model.llm.config.use_cache = True
    if checkpointing:
        model.activation_checkpointing_disable()
    try:
        yield
    finally:
        model.llm.config.use_cache = cached
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train(training)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


class AnswersHook(Hook):  # type: ignore[misc]
    """Answers prompts during training, greedily, and keeps the answers as JSON lines; training is not disturbed."""

    priority = "VERY_LOW"

    def __init__(
        self, tokenizer: Any, prompts: list[str], prompt_template: dict[str, Any], every: int, max_new_tokens: int
    ) -> None:
        self.tokenizer = BUILDER.build(tokenizer)
        self.prompts, self.template = prompts, from_xtuner(prompt_template)
        self.every, self.max_new_tokens = every, max_new_tokens

    def before_train(self, runner: Any) -> None:
        """Drop what a killed run had written beyond the checkpoint that this one goes on from."""
        if is_main_process():
            keep_until(Path(runner.work_dir) / ANSWERS, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Answer every prompt where it is time."""
        done = runner.iter + 1
        if not self.prompts or (done % self.every and done != runner.max_iters):
            return
        model = runner.model.module if hasattr(runner.model, "module") else runner.model
        with answering(model):
            asked: list[list[Message]] = [[{"role": "user", "content": prompt}] for prompt in self.prompts]
            answers = list(Answers(model.llm, self.tokenizer, self.template).of(asked, self.max_new_tokens))
        for prompt, answer in zip(self.prompts, answers, strict=True):
            if is_main_process():
                append(Path(runner.work_dir) / ANSWERS, {"iteration": done, "prompt": prompt, "answer": answer.text})


def _end_useless_warm_up(runner: Any) -> None:
    """Train a run of one or two iterations at its full rate: a warm-up would leave nothing of it."""
    if runner.max_iters > 2:  # noqa: PLR2004 - WarmUp takes two
        return
    for scheduler in [one for one in runner.param_schedulers if isinstance(one, WarmUp)]:
        runner.param_schedulers.remove(scheduler)
        for group in runner.optim_wrapper.param_groups:
            group["lr"] = group["initial_lr"]
