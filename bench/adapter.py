"""Time the way from a training checkpoint to a PEFT folder: tunemake and XTuner's pth_to_hf, interleaved.

    python bench/adapter.py [--model built|1.9b] [--rounds 5]

built: the checkpoint of the project in this repository, which `doit` has built; 1.9b: a random one of a 1.9-billion-
parameter Llama, rank 64 on all linear layers. Prints a Markdown table and adds it to bench/results/adapter-<date>.md.
The floor is a process that imports torch and ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import measure
import merge
from gpu_lab import OWN, built, project

# The second thread keeps the most private memory that it sees: what is mapped from the checkpoint is the kernel's.
OURS = """
import re, threading, time
from pathlib import Path; from tunemake.stages.adapter import write_adapter
def watch():
    most = 0
    while True:
        found = int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        if found > most:
            most = found
            Path({private!r}).write_text(str(most))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
write_adapter(Path({checkpoint!r}), {lora!r}, "base", Path({out!r}))
"""
RANK = 64


def make(folder: Path) -> tuple[Path, Path]:
    """Make a big project with its config, and a checkpoint as mmengine writes it; give both paths."""
    values = {"bench": str(measure.ROOT / "bench"), "folder": str(folder), "size": "1.9b", "rank": RANK}
    measure.run([sys.executable, "-c", merge.MAKE.format(**values)], folder / "out", folder / "log")
    where = project(folder / "project", folder / "base", OWN + "steps = 2\n", 8)
    built(where, "config")
    code = f"import adapter; from pathlib import Path; adapter.write_checkpoint(Path({str(folder)!r}))"
    measure.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {values['bench']!r}); {code}"],
                folder / "out", folder / "log")  # fmt: skip
    return where, folder / "iter_2.pth"


def write_checkpoint(folder: Path) -> None:
    """Write a checkpoint of the adapter beside it, with Adam's state; runs in a process of its own."""
    import torch
    from safetensors.torch import load_file

    read = load_file(folder / "adapter" / "adapter_model.safetensors")
    weights = {f"llm.{name.removesuffix('.weight')}.default.weight": value for name, value in read.items()}
    state = {at: {"exp_avg": value.clone(), "exp_avg_sq": value.clone()} for at, value in enumerate(weights.values())}
    told = {"meta": {"epoch": 0, "iter": 2}, "state_dict": weights, "optimizer": {"state": state, "param_groups": []}}
    torch.save(told, folder / "iter_2.pth")


def commands(where: Path, checkpoint: Path, lora: dict[str, int], out: Path) -> dict[str, list[str]]:
    """Give the contenders by name; each writes into out. where: the project, from which a config names its files."""
    os.chdir(where)
    told = {"checkpoint": str(checkpoint), "lora": lora, "out": str(out), "private": str(out.with_name("private"))}
    xtuner = [sys.executable, "-m", "tunemake.engines.xtuner_process", "pth_to_hf", "build/default/config/train.py"]
    return {
        "import torch": [sys.executable, "-c", "import torch"],
        "tunemake": [sys.executable, "-c", OURS.format(**told)],
        "XTuner pth_to_hf (fp16)": [*xtuner, str(checkpoint), str(out), "--safe-serialization"],
    }


def main() -> None:
    """Run the rounds, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("built", "1.9b"), default="built")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.model == "1.9b":
            where, checkpoint = make(folder)
            lora, what = {"r": RANK, "alpha": 16}, "a Llama of 1.9 billion parameters, rank 64 on all linear layers"
        else:
            where, train = measure.ROOT, measure.ROOT / "build/default/train"
            checkpoint = train / (train / "last_checkpoint").read_text("utf-8")
            lora, what = {"r": 16, "alpha": 32}, "SmolLM2-135M, rank 16 on q, k, v and o"
        size = checkpoint.stat().st_size / 1e6
        results = measure.interleaved(commands(where, checkpoint, lora, folder / "out"), chosen.rounds,
                                      folder / "out", folder / "log")  # fmt: skip
        private = int((folder / "private").read_text()) / 1024
    lines = [f"- checkpoint: {what}, with the optimizer's state, {size:.0f} MB", *measure.circumstances()]
    lines += [
        "",
        *measure.table(results, "import torch"),
        "",
        f"Of tunemake's peak, {private:.0f} MiB are private memory.",
    ]
    measure.publish("Adapter", lines)


if __name__ == "__main__":
    main()
