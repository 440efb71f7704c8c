"""What the artifacts of one variant tell, read for its report: training, checkpoints, probes, answers, data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunemake import gate
from tunemake.artifacts import read_record
from tunemake.contracts import Message
from tunemake.data_figures import figures
from tunemake.faults import ModelError
from tunemake.json_lines import read_json_lines
from tunemake.launch_fit import devices
from tunemake.prompts import text_of
from tunemake.samples import read_samples
from tunemake.trained_text import TOKENIZER, TrainedTexts

MOST_ANSWERS = 100  # shown of a probe
_EXAMPLE: Sequence[Message] = ({"role": "user", "content": "Who are you?"},)


def training(folder: Path, made: Path | None = None) -> dict[str, Any]:
    """Give a training's rows and sums.

    rows: of metrics.jsonl, each with tokens_per_second. seconds: of the iterations alone; padding: share of the
    tokens. answers: by prompt, in order of iteration.
    packs: what the tokens artifact in the folder `made`, if there is one, tells of how full they are; None without.
    """
    rows = read_json_lines(folder / "metrics.jsonl")
    rows = [{**row, "tokens_per_second": row["tokens"] / max(row["seconds"], 1e-9)} for row in rows]
    tokens, padded = (sum(row[key] for row in rows) for key in ("tokens", "padded_tokens"))
    seconds = sum(row["seconds"] for row in rows)
    answers: dict[str, list[dict[str, Any]]] = {}
    for row in read_json_lines(folder / "answers.jsonl"):
        answers.setdefault(row["prompt"], []).append(row)
    record = read_record(folder) or {}
    return {
        "rows": rows, "iterations": rows[-1]["iterations"] if rows else 0, "last": rows[-1]["iteration"] if rows else 0,
        "loss": rows[-1]["loss"] if rows else None, "tokens": tokens, "seconds": seconds,
        "padding": 1 - tokens / padded if padded else 0.0, "speed": tokens / seconds if seconds else None,
        "peak_bytes": max((row["peak_bytes"] for row in rows), default=None), "answers": answers,
        "environment": record.get("environment", {}), "ended_early": record.get("facts", {}).get("ended_early", False),
        "packs": _packs(made), "resumed_from": record.get("facts", {}).get("resumed_from"),
    }  # fmt: skip


def _packs(made: Path | None) -> dict[str, Any] | None:
    facts: dict[str, Any] = (read_record(made) or {}).get("facts", {}) if made is not None else {}
    return facts if "filled" in facts else None


def checkpoints(folder: Path | None) -> dict[str, Any] | None:
    """Give what select tells of each checkpoint, and which it chose; None where nothing was chosen."""
    if folder is None:
        return None
    told: dict[str, Any] = json.loads((folder / "scores.json").read_text("utf-8"))
    chosen = next(row["iteration"] for row in told["checkpoints"] if row["checkpoint"] == told["chosen"])
    names = dict.fromkeys(name for row in told["checkpoints"] for name in row["scores"])
    return {**told, "iteration": chosen, "probes": list(names)}


def evaluation(folder: Path | None, bounds: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Give the merged model's scores, the gate's verdict of each probe, and the answers; None where none were asked.

    passed: the gate's. Each probe has its verdict's values, kind, unit, and answers, those beyond its bound first.
    """
    if folder is None:
        return None
    scores, answers = (json.loads((folder / name).read_text("utf-8")) for name in ("scores.json", "answers.json"))
    found = gate.verdicts(gate.bounds_of(bounds), scores, answers)
    told = gate.as_json(found)
    kinds = {probe["name"]: probe for probe in scores["probes"]}
    probes = []
    for bound, probe in zip(gate.bounds_of(bounds), told["probes"], strict=True):
        own = [_judged(row, bound) for row in answers if row["probe"] == bound.name]
        own.sort(key=lambda row: not row["beyond"])
        probes.append({
            **probe, "expected": bound.told(), "kind": kinds[bound.name]["kind"], "unit": kinds[bound.name]["unit"],
            "asked": [row["prompt"] for row in own], "answers": own[:MOST_ANSWERS],
            "left_out": max(0, len(own) - MOST_ANSWERS),
        })  # fmt: skip
    conditions = {name: scores[name] for name in ("device", "dtype", "max_new_tokens") if name in scores}
    return {"passed": told["passed"], "probes": probes, "lines": gate.lines_of(told), **conditions}


def _judged(row: Mapping[str, Any], bound: gate.Bound) -> dict[str, Any]:
    value = row["merged_value"]
    return {**row, "beyond": value is not None and bool(bound.told()) and not bound.holds(value)}


def data(  # noqa: PLR0917 - each is another thing
    train: Path, count: int, held_out: Path, model: Path, template: Mapping[str, Any], told: Mapping[str, Any],
    probes: Mapping[str, Sequence[str]],
) -> dict[str, Any]:  # fmt: skip
    """Give figures of the training samples, as data_figures tells them, and how many are held out.

    train, held_out: files of samples; count: of train. model: the base's folder. template: resolved. told: the
    training's own parameters. probes: their prompts by name, looked for in the data. lengths: in tokens, of each sample
    measured; [] where the base has no tokenizer that can be read without torch.
    """
    kept = list(read_samples(held_out))
    found = figures(
        lambda: read_samples(train), count, kept, probes, texts=_texts(model, template, told["data"]["max_length"]),
        words=template["stop_words"], training=told, packing=told["data"]["packing"], devices=devices(told),
    )  # fmt: skip
    tokens = found.statistics.tokens
    return {
        **found.as_json(), "held_out": len(kept), "lengths": [] if tokens is None else list(tokens.lengths),
        "length": None if found.length is None else found.length.as_json(),
    }  # fmt: skip


def _texts(model: Path, template: Mapping[str, Any], max_length: int) -> TrainedTexts | None:
    try:
        return TrainedTexts(model, template, max_length) if (model / TOKENIZER).is_file() else None
    except ModelError:  # of a form that only its own library reads: the page then tells of no tokens
        return None


def asked(template: Mapping[str, Any]) -> str:
    """Give the text of a question as the model is given it, by a resolved template."""
    return text_of(template, _EXAMPLE)


def merged_onto(method: str, facts: Mapping[str, Any]) -> str:
    """Say what an adapter of a training in 4 bits was merged onto, by the merge's facts; "" of any other training."""
    if method != "qlora":
        return ""
    trained = "The adapter was trained against the base in 4 bits (NF4)"
    told = facts.get("onto", {})
    if told.get("base") != "dequantised":
        return f"{trained} and merged onto the base's own weights, which are not quite those."
    far = f"{told['distance']:.2%} of their size off the base's own"
    return f"{trained} and merged onto these weights, dequantised: {told['weights']} of them, {far}."
