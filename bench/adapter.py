"""Time the way from a training checkpoint to a PEFT folder: tunemake and XTuner's pth_to_hf, interleaved.

    python bench/adapter.py [--rounds 5]

Takes the checkpoint of the project in this repository, which `doit` has built. Prints a Markdown table and adds it to
bench/results/adapter-<date>.md. The floor is a process that imports torch and ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import measure

OURS = """
from pathlib import Path; from tunemake.stages.adapter import write_adapter
write_adapter(Path({checkpoint!r}), {lora!r}, "base", Path({out!r}))
"""


def commands(out: Path) -> dict[str, list[str]]:
    """Give the contenders by name; each writes into out."""
    os.chdir(measure.ROOT)  # the config names its files from there
    train = Path("build/default/train")
    checkpoint = str(train / (train / "last_checkpoint").read_text("utf-8"))
    lora = {"r": 16, "alpha": 32}
    xtuner = [sys.executable, "-m", "tunemake.engines.xtuner_process", "pth_to_hf", "build/default/config/train.py"]
    return {
        "import torch": [sys.executable, "-c", "import torch"],
        "tunemake": [sys.executable, "-c", OURS.format(checkpoint=checkpoint, lora=lora, out=str(out))],
        "XTuner pth_to_hf (fp16)": [*xtuner, checkpoint, str(out), "--safe-serialization"],
    }


def main() -> None:
    """Run the rounds, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        results = measure.interleaved(commands(out), chosen.rounds, out, Path(name) / "log")
    what = "- checkpoint: SmolLM2-135M, rank 16 on q, k, v and o, with the optimizer's state"
    measure.publish("Adapter", [what, *measure.circumstances(), "", *measure.table(results, "import torch")])


if __name__ == "__main__":
    main()
