"""Time training on a GPU: the tutorial's own XTuner config, Hugging Face's Trainer tuned by hand, and tunemake.

    python bench/speed.py --tokenizer FOLDER [--base llama internlm2] [--only NAME ...] [--into FILE]

The base is of random weights at InternLM2-1.8B's sizes, the data the tutorial's 10,001 pairs in packs of 1024, the
effective batch 16 packs; every contender reads the same rows in the same order. Prints a Markdown table and adds it to
bench/results/speed-<date>.md.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
from gpu_lab import (
    LENGTH,
    OWN,
    PARAMETERS,
    arguments,
    built,
    card,
    loss_apart,
    make_base,
    project,
    publish,
    run,
    trained,
)

EFFECTIVE, MATRIX = 16, 8192
TUTORIAL = '[train]\ntemplate = "xtuner:internlm2_1_8b_qlora_alpaca_e3"\n'


@dataclass(frozen=True)
class Contender:
    """What trains: the rest of its project.toml, or none for Hugging Face's Trainer; steps: of EFFECTIVE packs."""

    what: str
    steps: int
    train: str = ""


CONTENDERS = {
    "tutorial": Contender("the tutorial's own XTuner config (QLoRA, fp16, batch 1 × 16)", 5, TUTORIAL),
    "trainer": Contender("Trainer + PEFT, bf16 LoRA by hand (batch 8 × 2)", 30),
    "lora": Contender("tunemake: LoRA", 40, OWN + f"effective_batch = {EFFECTIVE}\n"),
    "qlora": Contender("tunemake: QLoRA", 30, OWN.replace("lora", "qlora", 1) + f"effective_batch = {EFFECTIVE}\n"),
}


def trainer(folder: Path, base: Path, rows: Path, steps: int) -> dict[str, Any]:
    """Train by Hugging Face's Trainer; give what `trained` gives."""
    out = folder / "trainer.json"
    script = str(Path(__file__).with_name("hf_peer.py"))
    told = {"model": str(base), "rows": str(rows), "out": str(out), "steps": steps, "batch": 8, "accumulation": 2}
    whole = run([sys.executable, "-W", "ignore", script, json.dumps(told)], folder)
    found = json.loads(out.read_text())
    seconds = statistics.median(found["seconds"])
    return {**found, "tokens": EFFECTIVE * LENGTH, "seconds": seconds, "whole": round(whole, 1)}


def write_rows(folder: Path, rows: Path) -> None:
    """Write the rows of a project's tokens in the order in which mmengine's sampler gives them, for four epochs."""
    code = f"""
import numpy as np, torch
from datasets import Dataset
table = Dataset.from_file({str(folder / "build/default/tokens/tokens.arrow")!r})
ids, labels = ([np.pad(row, (0, {LENGTH} - len(row)), constant_values=fill) for row in table[name]]
               for name, fill in (("input_ids", 0), ("labels", -100)))
ids, labels, order = np.array(ids), np.array(labels), []
for epoch in range(4):
    generator = torch.Generator(); generator.manual_seed(epoch)  # the project's seed is 0
    order += torch.randperm(len(ids), generator=generator).tolist()
np.savez({str(rows)!r}, input_ids=ids[order], labels=labels[order])
"""
    run([sys.executable, "-c", code], folder)


def matrix_rate() -> float:
    """Measure bf16 operations a second in products of 8192 × 8192 matrices; 0 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    one, two = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        torch.mm(one, two)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        torch.mm(one, two)
    torch.cuda.synchronize()
    return 20 * 2 * MATRIX**3 / (time.perf_counter() - start)


def table(results: dict[str, dict[str, Any]], rate: float) -> list[str]:
    """Give the Markdown table; shares are of 4 operations a parameter and token, as a frozen base needs."""
    speeds = {name: told["tokens"] / told["seconds"] for name, told in results.items()}
    lines = ["| | tokens/s | × tutorial | × Trainer | share of bf16 rate | peak GB | loss of steps 1, 5, last |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, told in results.items():
        by = [f"{speeds[name] / speeds[other]:.2f}" if other in speeds else "" for other in ("tutorial", "trainer")]
        losses = told["losses"]
        shown = ", ".join(f"{losses[at]:.3f}" for at in (0, min(4, len(losses) - 1), -1))
        share = f"{100 * 4 * PARAMETERS * speeds[name] / rate:.1f} %" if rate else ""
        line = f"| {CONTENDERS[name].what} | {speeds[name]:,.0f} | {by[0]} | {by[1]} | {share} |"
        lines.append(f"{line} {told['peak_bytes'] / 1e9:.1f} | {shown} |")
    if {"lora", "trainer"} <= results.keys():
        one, two = results["lora"]["losses"], results["trainer"]["losses"]
        steps = min(len(one), len(two))
        lines += ["", f"Losses of tunemake's LoRA and Trainer's over {steps} steps: {loss_apart(one, two):.4f} apart."]
    return lines


def compete(folder: Path, base: Path, only: list[str], samples: int) -> dict[str, dict[str, Any]]:
    """Run the contenders one after the other, on the same rows."""
    projects = {}
    for name in only:
        if CONTENDERS[name].train:
            train = f"{CONTENDERS[name].train}steps = {CONTENDERS[name].steps}\n"
            projects[name] = project(folder / name, base, train, samples)
            built(projects[name], "config", "tokens")
    rows, results = folder / "rows.npz", {}
    if "trainer" in only:
        write_rows(next(iter(projects.values())), rows)
    for name in only:
        there = name in projects
        found = trained(projects[name], EFFECTIVE) if there else trainer(folder, base, rows, CONTENDERS[name].steps)
        print(json.dumps({"contender": name, **found}), flush=True)
        if not all(map(math.isfinite, found["losses"])):
            sys.exit(f"{name}: a loss that is no number")
        results[name] = found
    return results


def main() -> None:
    """Make the bases, run what is asked for, print and write the table."""
    parser = arguments(__doc__.splitlines()[0], "tunemake-speed")
    parser.add_argument("--base", nargs="+", choices=("llama", "internlm2"), default=["llama", "internlm2"])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    chosen = parser.parse_args()
    rate = matrix_rate()
    lines = [f"{card()}; {rate / 1e12:.0f} TFLOP/s in bf16 products", *measure.circumstances()]
    for architecture in chosen.base:
        folder = chosen.folder / architecture
        base = make_base(folder, architecture, chosen.size, chosen.tokenizer)
        results = compete(folder, base, chosen.only, chosen.samples)
        size = "1.9 billion parameters" if chosen.size == "1.9b" else "tiny"
        lines += ["", f"## {architecture}, {size}", "", *table(results, rate)]
    publish("Speed", lines, chosen.into)


if __name__ == "__main__":
    main()
