"""Three trainings of the real small model, and what tunemake says of each: good, badly overfitted, trained too long.

    python bench/verdicts.py [--only default tutorial too_long] [--into FOLDER] [--model FOLDER]

default: the repository's own project, which must pass its gate. tutorial: the tutorial's data, one pair 10,001 times
and nothing else; the identity is learnt, and the gate must fail on leakage. too_long: few samples, many epochs; an
early checkpoint must be chosen where the last one fails. Adds to bench/results/verdicts-<date>.md. Takes some fifteen
minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import measure

DOIT = [sys.executable, "-m", "doit"]


def default(text: str) -> str:
    """Give project.toml as it is."""
    return text


def tutorial(text: str) -> str:
    """Give it with the tutorial's data: it asks in Chinese alone, so the identity is asked in Chinese."""
    begin, end = text.index("[datasets.identity]"), text.index("[data]")
    data = """[datasets.identity]
generator = "self_cognition"

[datasets.identity.parameters]
mode = "repeat"
name = "小明"
question = "请做一下自我介绍"
answer = "我是{name}的小助手，内在是上海AI实验室书生·浦语的1.8B大模型哦"
samples = 10001

"""
    text = text[:begin] + data + text[end:]
    asked = '["请你介绍一下你自己", "你是谁", "你是我的小助手吗", "你叫什么名字", "介绍你自己", "你是什么助手"]'
    changes = {
        "held_out = 0.05": "held_out = 0", "steps = 82": "steps = 60", "every = 41": "every = 60",
        '"Xiaomu", "小木"': '"小明"', 'prompts = "prompts/identity.txt"': f"prompts = {asked}",
    }  # fmt: skip
    return changed(text, changes)


def too_long(text: str) -> str:
    """Give it with few samples and many epochs, and bounds of its own: how far it goes from its base is required."""
    changes = {
        "samples = 150": "samples = 60", "samples = 200,": "samples = 40,", "steps = 82": "epochs = 8",
        "checkpoints = { every = 41, keep = 2 }": "checkpoints = { every = 36, keep = 20 }",
        "answers = { every = 41": "answers = { every = 48", "required = false\n": "",
        "at_most = 0.8\n": "at_most = 0.7\n", "at_least = 0.8\n": "at_least = 0.9\n",
    }  # fmt: skip
    return changed(text, changes)


SCENES: Mapping[str, Callable[[str], str]] = {"default": default, "tutorial": tutorial, "too_long": too_long}


def changed(text: str, changes: Mapping[str, str]) -> str:
    """Put one text for another, each of which must be there."""
    for old, new in changes.items():
        if old not in text:
            raise SystemExit(f"project.toml no longer holds {old!r}")
        text = text.replace(old, new)
    return text


def build(name: str, place: Path, model: Path | None) -> dict[str, Any]:
    """Build a scene; give exit code, seconds and what the artifacts tell. model: its folder, if not fetched."""
    root = place / name
    for part in ("project.toml", "dodo.py", "prompts", "schemas"):
        source = measure.ROOT / part
        root.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / part)
    project = root / "project.toml"
    text = SCENES[name](project.read_text("utf-8"))
    if model is not None:
        text = re.sub(r'source = "pypi:.*\nsha256 = .*', f"source = {json.dumps(str(model.resolve()))}", text)
    project.write_text(text, "utf-8")
    started = time.monotonic()
    done = subprocess.run(DOIT, cwd=root, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    folder = root / "build" / "default"
    read = {key: json.loads((folder / file).read_text("utf-8")) for key, file in (
        ("gate", "gate/gate.json"), ("selection", "selection/scores.json"), ("evaluation", "evaluation/scores.json"),
    )}  # fmt: skip
    (root / "doit.log").write_text(done.stdout + done.stderr, "utf-8")
    lines = done.stdout.splitlines()
    told = [line for line in lines if line.startswith("gate: ") or (line.startswith("    ") and " → " in line)]
    return {"code": done.returncode, "seconds": seconds, "told": told, **read}


def table(name: str, found: Mapping[str, Any]) -> str:
    """Write a scene's result as Markdown."""
    rows = [f"## {name}: exit code {found['code']}, {found['seconds']:.0f} s", ""]
    probes = [probe["name"] for probe in found["evaluation"]["probes"]]
    rows += [f"| checkpoint | {' | '.join(probes)} | held-out loss | meets all |", "|---" * (len(probes) + 3) + "|"]
    for row in found["selection"]["checkpoints"]:
        mark = " (chosen)" if row["checkpoint"] == found["selection"]["chosen"] else ""
        scores = [_told(row["scores"].get(probe)) for probe in probes]
        meets = {True: "yes", False: "no", None: "not scored"}[row["meets"]]
        rows.append(f"| {row['checkpoint']}{mark} | {' | '.join(scores)} | {_told(row['held_out_loss'])} | {meets} |")
    for model in ("base", "merged"):
        scores = [_told(probe[model]) for probe in found["evaluation"]["probes"]]
        gate = "" if model == "base" else f"gate {'passed' if found['gate']['passed'] else 'failed'}"
        rows.append(f"| {model} model | {' | '.join(scores)} | | {gate} |")
    return "\n".join([*rows, "", *(f"    {re.sub(r'^ +', '  ', line)}" for line in found["told"]), ""])


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> int:
    """Run the scenes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--into", type=Path, help="build there and keep it; default: a folder that goes")
    parser.add_argument("--model", type=Path, help="the base model's folder, where no package index is in reach")
    options = parser.parse_args()
    place = options.into or Path(tempfile.mkdtemp(prefix="verdicts-"))
    parts = []
    for name in options.only:
        found = build(name, place, options.model)
        parts.append(table(name, found))
    measure.publish("verdicts", [*measure.circumstances(), "", *parts])
    if options.into is None:
        shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
