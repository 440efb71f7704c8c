"""Build the whole tutorial on a GPU: 10,001 pairs, two epochs, adapter, merged model, from nothing by one `doit`.

    python bench/tutorial.py --tokenizer FOLDER [--method lora qlora] [--into FILE]

The base is of random weights at InternLM2-1.8B's sizes. Prints what each stage took and adds it to
bench/results/tutorial-<date>.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import measure
from gpu_lab import OWN, arguments, built, card, make_base, project, publish

_TRAIN = OWN.replace('schedule = "constant"\nwarmup = 0\n', "") + "effective_batch = 16\nepochs = 2\n"


def whole(folder: Path, base: Path, method: str, samples: int) -> str:
    """Build one project to the merged model; give a row of the table."""
    where = project(folder / method, base, _TRAIN.replace('"lora"', f'"{method}"'), samples)
    seconds = built(where, "merge")
    log = (where / "log").read_text("utf-8", errors="replace")
    stages = re.findall(r"^made \d+ in .*?s: (.*)$", log, re.MULTILINE)[-1]
    again = built(where, "merge")
    return f"| {method} | {seconds:.1f} | {stages} | {again:.1f} |"


def main() -> None:
    """Make the base, build, print and write the table."""
    parser = arguments(__doc__.splitlines()[0], "tunemake-tutorial")
    parser.add_argument("--base", choices=("llama", "internlm2"), default="internlm2")
    parser.add_argument("--method", nargs="+", choices=("lora", "qlora"), default=["lora", "qlora"])
    chosen = parser.parse_args()
    base = make_base(chosen.folder, chosen.base, chosen.size, chosen.tokenizer)
    rows = [whole(chosen.folder, base, method, chosen.samples) for method in chosen.method]
    head = ["| method | seconds in all | by stage | seconds, up to date |", "| --- | --- | --- | --- |"]
    publish("Tutorial", [card(), *measure.circumstances(), "", *head, *rows], chosen.into)


if __name__ == "__main__":
    main()
