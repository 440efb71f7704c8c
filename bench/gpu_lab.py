"""What the benchmarks on GPUs share: a base of random weights, projects with the tutorial's data, trainings."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure

LENGTH = 1024  # tokens of a pack
PARAMETERS = 1.889e9
_SHARED = """
[project]
name = "speed"
[model]
source = "{base}"
trust_remote_code = {trusted}
prompt_template = "default"
[datasets.identity]
generator = "self_cognition"
[datasets.identity.parameters]
mode = "repeat"
name = "小明"
question = "请做一下自我介绍"
answer = "我是{{name}}的小助手，内在是上海AI实验室书生·浦语的1.8B大模型哦"
samples = {samples}
[data]
held_out = 0
max_length = 1024
packing = true
"""
OWN = """
[train]
method = "lora"
lr = 2e-4
schedule = "constant"
warmup = 0
lora = { r = 64, alpha = 16 }
"""


def arguments(what: str, folder: str) -> argparse.ArgumentParser:
    """Give a parser with what all of them ask. what: one line; folder: under the user's cache, where it works."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer of some 49,000 tokens")
    parser.add_argument("--size", choices=("1.9b", "tiny"), default="1.9b")
    parser.add_argument("--samples", type=int, default=10_001)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / folder)
    parser.add_argument("--into", type=Path)
    return parser


def environment() -> dict[str, str]:
    """Give what the contenders' processes see: this repository before what is installed."""
    path = [str(measure.ROOT / "src"), str(measure.ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def run(command: list[str], folder: Path, **more: str) -> float:
    """Run to the end; give seconds. Ends this process where it fails."""
    start, log = time.perf_counter(), folder / "log"
    told = {**environment(), **more}
    with log.open("ab") as output:
        done = subprocess.run(command, cwd=folder, stdout=output, stderr=output, env=told, check=False)
    if done.returncode:
        sys.exit(f"{command} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return time.perf_counter() - start


def make_base(folder: Path, architecture: str, size: str, tokenizer: Path) -> Path:
    """Make a base model's folder inside a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    script = str(Path(__file__).with_name("big_base.py"))
    run([sys.executable, script, str(folder / "base"), architecture, size, str(tokenizer.resolve())], folder)
    return folder / "base"


def project(folder: Path, base: Path, train: str, samples: int) -> Path:
    """Make a project; train: the rest of its project.toml. Give its folder."""
    folder.mkdir()
    trusted = "true" if (base / "modeling_internlm2.py").exists() else "false"
    (folder / "project.toml").write_text(_SHARED.format(base=base, trusted=trusted, samples=samples) + train)
    shutil.copy(measure.ROOT / "dodo.py", folder)
    return folder


def built(folder: Path, *stages: str, **more: str) -> float:
    """Build stages by doit; give seconds."""
    return run([sys.executable, "-m", "doit", *stages], folder, **more)


def trained(folder: Path, effective: int, *launched: str, saved: bool = True, **more: str) -> dict[str, Any]:
    """Train by a project's config; give losses by step, seconds and tokens of an iteration, the peak of memory.

    effective: packs in a step. launched: what runs the module in place of this interpreter, such as torchrun.
    saved: with a checkpoint at the end, which under DeepSpeed is 14 bytes a trained parameter. more: environment.
    """
    work, config = folder / "work", folder / "build/default/config"
    shutil.rmtree(work, ignore_errors=True)
    command = [*(launched or (sys.executable, "-P")), "-m", "tunemake.engines.xtuner_process", "train"]
    command += [str(config / "train.py"), "--work-dir", str(work)]
    if launched:
        command += ["--launcher", "pytorch"]
    if (settings := config / "deepspeed.json").exists():
        command += ["--deepspeed", str(settings)]
    if not saved:
        command += ["--cfg-options", "default_hooks.checkpoint.save_last=False"]
    whole = run(command, folder, TUNEMAKE_ROOT=str(folder), PYTHONSAFEPATH="1", **more)
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    logs = "".join(path.read_text(errors="replace") for path in work.glob("*/*.log"))
    times = [float(found) for found in re.findall(r" time: ([\d.]+)", logs)]  # each the mean of ten iterations
    every = max(1, effective * LENGTH // lines[0]["padded_tokens"])
    losses = [line["loss"] for line in lines]
    return {
        "losses": [statistics.mean(losses[at : at + every]) for at in range(0, len(losses), every)],
        "tokens": lines[0]["padded_tokens"], "seconds": statistics.median(times[len(times) // 2 :]),
        "peak_bytes": max(line["peak_bytes"] for line in lines), "whole": round(whole, 1),
        "told": re.findall(r"loss of one row.*", logs),
    }  # fmt: skip


def loss_apart(one: list[float], two: list[float]) -> float:
    """Give the mean difference of two loss curves, over the steps that both have."""
    return statistics.mean(abs(a - b) for a, b in zip(one, two, strict=False))


def card() -> str:
    """Name the GPU, and torch."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"- {torch.cuda.device_count()} × {name}; torch {torch.__version__}"


def publish(title: str, lines: list[str], into: Path | None) -> None:
    """Write a table to a file, or to bench/results as every other benchmark does."""
    if into is None:
        measure.publish(title, lines)
    else:
        into.write_text("\n".join(lines) + "\n", "utf-8")
