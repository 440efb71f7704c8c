"""A project built in a second: real stages where they are light; what the others would make is written by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from light_model import write_light_model
from tunemake.building import Builder
from tunemake.digests import DIGESTS, Digests
from tunemake.loading import load_builder
from tunemake.model_record import write_model_record

HOSTILE = (
    '<script>alert("x")</script> | [a](http://b.example) `c` ![d](e) {{ 7 * 7 }} **f** <img src=x onerror=g>\u202e'
)
PROJECT = """
[project]
name = "tiny"
seed = 7

[model]
source = "models/tiny"
prompt_template = "chatml"

[datasets.identity]
generator = "self_cognition"
parameters = { name = "Xiaomu", author = "a tester", samples = 24, languages = ["en"] }

[data]
held_out = 0.1
max_length = 200

[train]
steps = 40
batch_size = 2
lora = { r = 2, alpha = 4 }

[card]
license = "apache-2.0"
languages = ["en"]

[[evaluate.probe]]
name = "identity"
kind = "contains"
prompts = ["hello, and your name is?", "so who would you be?"]
parameters = { words = ["Xiaomu"] }
at_least = 0.5

[[evaluate.probe]]
name = "kept"
kind = "changed"
prompts = ["what is two and two?"]
required = false
at_most = 0.1
"""
_REAL = {"base", "dataset", "data", "config", "tokens", "gate", "report"}


class Built:
    """A project and its build. identity: the merged model's score of the first probe, decided before it is built."""

    def __init__(self, root: Path, identity: float = 1.0, text: str = PROJECT) -> None:
        self.root, self.identity, self.ran = root, identity, []
        if not (root / "project.toml").exists():  # else it is a copy
            write_light_model(root / "models" / "tiny")
            (root / "project.toml").write_text(text)

    def builder(self) -> Builder:
        """Load it."""
        return load_builder(self.root, run=self._run)

    def build(self) -> Builder:
        """Make what is stale."""
        builder = self.builder()
        for name in builder.stages:
            if not builder.state(name).fresh:
                builder.make(name, anew=False, watch=lambda _event: None)
        return builder

    def artifact(self, name: str) -> Path:
        """Give the folder of what build/default shows."""
        return (self.root / "build" / "default" / name).resolve()

    def _run(self, kind, job, _share, _watch):
        self.ran.append(kind)
        if kind in _REAL:
            return importlib.import_module(f"tunemake.stages.{kind}").run(job)
        return getattr(self, f"_{kind}")(job.work, job)

    def _train(self, work, _job):
        lines = [metrics(iteration, 40) for iteration in range(1, 41)]
        (work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        told = [{"iteration": 20, "prompt": "Who are you?", "answer": HOSTILE}]
        (work / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
        for name in ("iter_20.pth", "iter_40.pth"):
            (work / name).write_bytes(name.encode())
        (work / "last_checkpoint").write_text("iter_40.pth")
        return {"loss": lines[-1]["loss"], "tokens": 4000, "training_seconds": 20.0, "ended_early": False}

    def _baseline(self, work, _job):
        write(work / "answers.json", [])
        write(work / "scores.json", {"probes": {}})
        return {}

    def _select(self, work, _job):
        rows = [
            {"checkpoint": f"iter_{at}.pth", "iteration": at, "held_out_loss": loss,
             "scores": {"identity": score, "kept": None}, "meets": at == 40}
            for at, loss, score in ((20, 1.5, 0.4), (40, 1.2, self.identity))
        ]  # fmt: skip
        write(
            work / "scores.json", {"checkpoints": rows, "chosen": "iter_40.pth", "why": "the earliest that meets all"}
        )
        (work / "checkpoint").write_text("iter_40.pth")
        return {"checkpoint": "iter_40.pth"}

    def _adapter(self, work, _job):
        (work / "adapter_model.safetensors").write_bytes(b"weights of the adapter")
        write(work / "adapter_config.json", {"peft_type": "LORA"})
        return {}

    def _merge(self, work, job):
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
            (work / name).write_bytes((job.inputs["base"] / "model" / name).read_bytes())
        (work / "log.txt").write_text("nothing for others")
        write_model_record(work, job.inputs, job.parameters, Digests(job.root / DIGESTS))
        return {}

    def _evaluate(self, work, _job):
        identity = {"name": "identity", "kind": "contains", "unit": "share of answers", "prompts": 2, "base": 0.0}
        kept = {"name": "kept", "kind": "changed", "unit": "share of answers", "prompts": 1, "base": None}
        probes = [{**identity, "merged": self.identity}, {**kept, "merged": 1.0}]
        conditions = {"device": "cpu", "dtype": "float32", "max_new_tokens": 4}
        write(work / "scores.json", {**conditions, "probes": probes})
        rows = [
            answer("identity", "hello, and your name is?", HOSTILE, self.identity),
            answer("identity", "so who would you be?", "I am Xiaomu.", 1.0),
            answer("kept", "what is two and two?", "five", 1.0),
        ]
        write(work / "answers.json", rows)
        return {"scores": {"identity": self.identity, "kept": 1.0}}


def metrics(iteration: int, iterations: int) -> dict[str, float]:
    """Give a line of metrics.jsonl."""
    return {
        "iteration": iteration, "iterations": iterations, "loss": 3 / iteration, "lr": 1e-3, "tokens": 100,
        "padded_tokens": 125, "seconds": 0.5, "peak_bytes": 2**30,
    }  # fmt: skip


def answer(probe: str, prompt: str, merged: str, value: float) -> dict[str, object]:
    """Give a row of the evaluation's answers.json."""
    return {"probe": probe, "prompt": prompt, "reference": None, "base": "I am a base model.", "merged": merged,
            "base_value": 0.0, "merged_value": value}  # fmt: skip


def write(path: Path, told: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(told, ensure_ascii=False), "utf-8")
