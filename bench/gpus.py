"""Time training on one and two GPUs: data parallel LoRA, ZeRO-2 and ZeRO-3 full fine-tuning; and hold them together.

    python bench/gpus.py --tokenizer FOLDER [--into FILE]

Speeds at twice the global batch; losses at an equal one, beside the noise between two ways to train the same on one
GPU. Runs of one GPU run two at a time, each on its own. What becomes of the models, and of a killed process, is
bench/gpu_faults.py's. Prints a Markdown table and adds it to bench/results/gpus-<date>.md.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measure
from gpu_lab import OWN, arguments, built, card, loss_apart, make_base, project, publish, trained

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


def one(folder: Path, base: Path, name: str, samples: int, **more: str) -> dict[str, Any]:
    """Train one of RUNS; give what `trained` gives. more: of its environment."""
    batch, accumulation, processes, train = RUNS[name]
    where = project(folder / name.replace(" ", "-").replace(",", ""), base, train, samples)
    text = (where / "project.toml").read_text() + f"batch_size = {batch}\naccumulation = {accumulation}\n"
    (where / "project.toml").write_text(f"{text}[launch]\ngpus = {processes}\n")
    built(where, "config", "tokens")
    launched: tuple[str, ...] = ()
    if processes > 1 or "ZeRO" in name:
        torchrun = (sys.executable, "-P", "-m", "torch.distributed.run", "--standalone")
        launched = (*torchrun, "--nproc-per-node", str(processes))
    found = trained(where, batch * accumulation * processes, *launched, saved="LoRA" in name, **more)
    print(json.dumps({"run": name, **found}), flush=True)
    return found


def every(folder: Path, base: Path, names: list[str], samples: int) -> dict[str, dict[str, Any]]:
    """Train those of one GPU side by side, and those of two one after the other; give their results in RUNS' order."""
    alone = [name for name in names if RUNS[name][2] == 1]
    found: dict[str, dict[str, Any]] = {}
    for pair in (alone[at : at + 2] for at in range(0, len(alone), 2)):
        with ThreadPoolExecutor(2) as pool:
            runs = {name: pool.submit(one, folder, base, name, samples, CUDA_VISIBLE_DEVICES=str(gpu))
                    for gpu, name in enumerate(pair)}  # fmt: skip
            found |= {name: run.result() for name, run in runs.items()}
    found |= {name: one(folder, base, name, samples) for name in names if name not in alone}
    return {name: found[name] for name in RUNS if name in found}


def tables(results: dict[str, dict[str, Any]]) -> list[str]:
    """Give the Markdown tables."""
    speeds = {name: told["tokens"] / told["seconds"] for name, told in results.items()}
    lines = ["| run: global batch in packs of 1,024 | tokens/s | peak GB a GPU | loss of the first, last step |"]
    lines.append("| --- | --- | --- | --- |")
    for name, told in results.items():
        losses = f"{told['losses'][0]:.4f}, {told['losses'][-1]:.4f}"
        lines.append(f"| {name} | {speeds[name]:,.0f} | {told['peak_bytes'] / 1e9:.1f} | {losses} |")
    lines += ["", "| at twice the global batch | × one GPU, of two that trained at once |", "| --- | --- |"]
    lines += [f"| {two} | {speeds[two] / speeds[one]:.2f} |" for one, two in TWICE if {one, two} <= results.keys()]
    lines += ["", f"| at an equal global batch, {STEPS} steps | losses apart, mean |", "| --- | --- |"]
    for first, second in EQUAL:
        if {first, second} <= results.keys():
            apart = loss_apart(results[first]["losses"], results[second]["losses"])
            lines.append(f"| {first} and {second} | {apart:.4f} |")
    return lines


def main() -> None:
    """Make the base, run all, print and write the tables."""
    parser = arguments(__doc__.splitlines()[0], "tunemake-gpus")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    chosen = parser.parse_args()
    base = make_base(chosen.folder, "llama", chosen.size, chosen.tokenizer)
    results = every(chosen.folder, base, chosen.only, chosen.samples)
    publish("GPUs", [card(), *measure.circumstances(), "", *tables(results)], chosen.into)


if __name__ == "__main__":
    main()
