"""Time training on one and two GPUs: data parallel LoRA, ZeRO-2 and ZeRO-3 full fine-tuning; and hold them together.

    python bench/gpus.py --tokenizer FOLDER [--into FILE]

Speeds at twice the global batch; losses, and what the adapter changes, at an equal one, beside the noise between two
ways to train the same on one GPU. Prints a Markdown table and adds it to bench/results/gpus-<date>.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import measure
from gpu_lab import OWN, built, card, loss_apart, make_base, project, publish, trained

from tunemake.checkpoints import load_weights

STEPS = 16
_LORA = OWN + f"steps = {STEPS}\n"
_FULL = _LORA.replace('"lora"', '"full"').replace("lora = { r = 64, alpha = 16 }\n", "").replace("2e-4", "1e-5")
# For each: batch size, iterations a step, processes, and the rest of [train].
RUNS: dict[str, tuple[int, int, int, str]] = {
    "LoRA, 1 GPU, 16": (16, 1, 1, _LORA),
    "LoRA, 2 GPUs, 32": (16, 1, 2, _LORA),
    "LoRA, 2 GPUs, 16": (8, 1, 2, _LORA),
    "LoRA, 1 GPU, 16 in halves": (8, 2, 1, _LORA),
    "full, ZeRO-2, 1 GPU, 8": (8, 1, 1, _FULL + 'deepspeed = "zero2"\n'),
    "full, ZeRO-2, 2 GPUs, 16": (8, 1, 2, _FULL + 'deepspeed = "zero2"\n'),
    "full, ZeRO-2, 2 GPUs, 8": (4, 1, 2, _FULL + 'deepspeed = "zero2"\n'),
    "full, ZeRO-3, 1 GPU, 8": (8, 1, 1, _FULL + 'deepspeed = "zero3"\n'),
    "full, ZeRO-3, 2 GPUs, 16": (8, 1, 2, _FULL + 'deepspeed = "zero3"\n'),
    "full, ZeRO-3, 2 GPUs, 8": (4, 1, 2, _FULL + 'deepspeed = "zero3"\n'),
}
EQUAL = [
    ("LoRA, 1 GPU, 16", "LoRA, 1 GPU, 16 in halves"), ("LoRA, 1 GPU, 16", "LoRA, 2 GPUs, 16"),
    ("full, ZeRO-2, 1 GPU, 8", "full, ZeRO-2, 2 GPUs, 8"), ("full, ZeRO-3, 1 GPU, 8", "full, ZeRO-3, 2 GPUs, 8"),
    ("full, ZeRO-2, 1 GPU, 8", "full, ZeRO-3, 1 GPU, 8"),
]  # fmt: skip
TWICE = [("LoRA, 1 GPU, 16", "LoRA, 2 GPUs, 32"), ("full, ZeRO-2, 1 GPU, 8", "full, ZeRO-2, 2 GPUs, 16"),
         ("full, ZeRO-3, 1 GPU, 8", "full, ZeRO-3, 2 GPUs, 16")]  # fmt: skip


def one(folder: Path, base: Path, name: str, samples: int) -> dict[str, Any]:
    """Train one of RUNS; give what `trained` gives, and the folder."""
    batch, accumulation, processes, train = RUNS[name]
    where = project(folder / name.replace(" ", "-").replace(",", ""), base, train, samples)
    text = (where / "project.toml").read_text() + f"batch_size = {batch}\naccumulation = {accumulation}\n"
    (where / "project.toml").write_text(f"{text}[launch]\ngpus = {processes}\n")
    built(where, "config", "tokens")
    launched: tuple[str, ...] = ()
    if processes > 1 or "ZeRO" in name:
        torchrun = (sys.executable, "-P", "-m", "torch.distributed.run", "--standalone")
        launched = (*torchrun, "--nproc-per-node", str(processes))
    found = trained(where, batch * accumulation * processes, *launched, saved="LoRA" in name)
    print(json.dumps({"run": name, **found}), flush=True)
    return {**found, "folder": where}


def changes_apart(one: Path, two: Path) -> float:
    """Give how far two adapters' changes of the weights are apart: the difference's norm over the first one's."""
    import torch

    norms = torch.zeros(2, dtype=torch.float64)
    first, second = (load_weights(_checkpoint(folder)) for folder in (one, two))
    for name in first:
        if "lora_A" in name:
            pair = name.replace("lora_A", "lora_B")
            change, other = (told[pair].float().cuda() @ told[name].float().cuda() for told in (first, second))
            norms += torch.stack([(change - other).norm() ** 2, change.norm() ** 2]).double().cpu()
    return float((norms[0] / norms[1]).sqrt())


def _checkpoint(folder: Path) -> Path:
    return folder / "work" / f"iter_{STEPS * (2 if 'halves' in folder.name else 1)}.pth"


def side_by_side(folder: Path, base: Path, samples: int) -> list[str]:
    """Build two variants with `doit -n 2`, each on a GPU of its own; say how long, and what ran where."""
    train = _LORA + "batch_size = 16\n[variants.one.train]\nlr = 1e-4\n[variants.two.train]\nlr = 3e-4\n"
    where = project(folder / "variants", base, train, samples)
    built(where, "config:one", "config:two", "tokens")
    ended, seen = threading.Event(), set()
    watcher = threading.Thread(target=_watch, args=(ended, seen))
    watcher.start()
    both = built(where, "-n", "2", "train:one", "train:two")
    ended.set()
    watcher.join()
    together = max(len(gpus) for gpus in seen)
    return [
        "",
        f"`doit -n 2` of two variants: {both:.1f} s; at most {together} GPUs at work at once, one process on each.",
    ]


def _watch(ended: threading.Event, seen: set[frozenset[str]]) -> None:
    """Note which GPUs have a process, until the end; two on one are told as two of that GPU."""
    while not ended.wait(0.5):
        asked = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader"]
        lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
        seen.add(frozenset(line.split(",")[0] for line in lines))


def tables(results: dict[str, dict[str, Any]]) -> list[str]:
    """Give the Markdown tables."""
    speeds = {name: told["tokens"] / told["seconds"] for name, told in results.items()}
    lines = ["| run: global batch in packs of 1,024 | tokens/s | peak GB a GPU | loss of the first, last step |"]
    lines.append("| --- | --- | --- | --- |")
    for name, told in results.items():
        losses = f"{told['losses'][0]:.4f}, {told['losses'][-1]:.4f}"
        lines.append(f"| {name} | {speeds[name]:,.0f} | {told['peak_bytes'] / 1e9:.1f} | {losses} |")
    lines += ["", "| at twice the global batch | × one GPU |", "| --- | --- |"]
    lines += [f"| {two} | {speeds[two] / speeds[one]:.2f} |" for one, two in TWICE if {one, two} <= results.keys()]
    lines += [
        "",
        f"| at an equal global batch, {STEPS} steps | losses apart, mean | changes apart |",
        "| --- | --- | --- |",
    ]
    for first, second in EQUAL:
        if {first, second} <= results.keys():
            apart = loss_apart(results[first]["losses"], results[second]["losses"])
            lora = "LoRA" in first
            changes = f"{changes_apart(results[first]['folder'], results[second]['folder']):.3f}" if lora else ""
            lines.append(f"| {first} and {second} | {apart:.4f} | {changes} |")
    return lines


def main() -> None:
    """Make the base, run all, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer of some 49,000 tokens")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--size", choices=("1.9b", "tiny"), default="1.9b")
    parser.add_argument("--samples", type=int, default=10_001)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "tunemake-gpus")
    parser.add_argument("--into", type=Path)
    chosen = parser.parse_args()
    base = make_base(chosen.folder, "llama", chosen.size, chosen.tokenizer)
    results = {name: one(chosen.folder, base, name, chosen.samples) for name in chosen.only}
    told = side_by_side(chosen.folder, base, chosen.samples)
    publish("GPUs", [card(), *measure.circumstances(), "", *tables(results), *told], chosen.into)


if __name__ == "__main__":
    main()
