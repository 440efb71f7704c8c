"""Ends a training that has met its own probes; imported by XTuner's process alone, imports mmengine and torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from xtuner.registry import BUILDER

from tunemake.digests import DIGESTS, Digests
from tunemake.engines.xtuner import ROOT
from tunemake.engines.xtuner_hooks import answering
from tunemake.examination import Asked, Examination, Terms
from tunemake.gate import bounds_of
from tunemake.generation import Answers
from tunemake.json_lines import append, keep_until, read_json_lines
from tunemake.plugins import Plugins
from tunemake.prompts import from_xtuner
from tunemake.questions import questions_of

CHECKS = "early_stop.jsonl"


class EarlyStopHook(Hook):  # type: ignore[misc]
    """Scores the model now and then, and ends the training when several checks in a row met all probes.

    Each check leaves a line in early_stop.jsonl: iteration, scores, met. tokenizer: a config, or one that is loaded.
    probes: as project.toml's train.early_stop.probe tells them; plugins: the project's own files. Files are looked for
    in the project's folder. every: iterations between two checks.
    """

    priority = "LOW"  # before CheckpointHook, which has VERY_LOW

    def __init__(
        self, tokenizer: Any, prompt_template: dict[str, Any], *, probes: list[dict[str, Any]], plugins: list[str],
        every: int, checks: int, max_new_tokens: int,
    ) -> None:  # fmt: skip
        self.tokenizer = BUILDER.build(tokenizer) if isinstance(tokenizer, Mapping) else tokenizer
        self.template, self.probes, self.plugins = from_xtuner(prompt_template), probes, plugins
        self.every, self.checks, self.max_new_tokens = every, checks, max_new_tokens

    def before_train(self, runner: Any) -> None:
        """Drop what a killed run had written beyond the checkpoint that this one goes on from."""
        if is_main_process():
            keep_until(Path(runner.work_dir) / CHECKS, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check where it is time, and end where that is enough: with a checkpoint of this iteration."""
        done = runner.iter + 1
        if done % self.every or done == runner.max_iters:
            return
        line, enough = self._check(runner, done), [False]
        if is_main_process():
            path = Path(runner.work_dir) / CHECKS
            append(path, line)
            last = read_json_lines(path)[-self.checks :]
            enough = [len(last) == self.checks and all(one["met"] for one in last)]
        broadcast_object_list(enough)  # each rank has its own rounding
        if enough[0]:
            runner.train_loop.stop_training = True
            meta = {"epoch": runner.epoch, "iter": done}
            runner.save_checkpoint(runner.work_dir, f"iter_{done}.pth", by_epoch=False, meta=meta)

    def _check(self, runner: Any, done: int) -> dict[str, Any]:
        model = runner.model.module if hasattr(runner.model, "module") else runner.model
        with answering(model):
            answers = Answers(model.llm, self.tokenizer, self.template)
            terms = Terms(_root(), [], 0, self.max_new_tokens)
            found = Examination(answers, self._asked(), terms).scores(lambda *_: None)
        values = {name: score.value if score and math.isfinite(score.value) else None for name, score in found.items()}
        scores = [(bound, values[bound.name]) for bound in bounds_of(self.probes)]
        return {"iteration": done, "scores": values, "met": all(s is not None and b.holds(s) for b, s in scores)}

    def _asked(self) -> Sequence[Asked]:
        root = _root()
        plugins = Plugins(root, self.plugins, Digests(root / DIGESTS))
        found = []
        for told in self.probes:
            questions = questions_of(root, told.get("prompts", []), f"train.early_stop.probe {told['name']}")
            parameters = plugins.probe_parameters(told["kind"], told["parameters"])
            found.append(Asked(told["name"], told["kind"], plugins.probe(told["kind"]), parameters, questions))
        return found


def _root() -> Path:
    return Path(os.environ.get(ROOT, ".")).resolve()
