"""DeepSpeed's settings: those that project.toml names, points to or holds, made into the file that DeepSpeed reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemake.engines import xtuner_configs
from tunemake.faults import Fault, InputError

SETTINGS = "deepspeed.json"
_HALVES = {"bf16": "bfloat16", "fp16": "float16"}
_VALUE = "train.deepspeed"


def source(told: str | Mapping[str, Any] | None) -> str | None:
    """Name the file that settings come from: XTuner's own for a name such as zero2, the user's, or none."""
    if not isinstance(told, str):
        return None
    return told if told.endswith(".json") else f"{xtuner_configs.PACKAGE}/deepspeed/deepspeed_{told}.json"


def settings(told: str | Mapping[str, Any], precision: str, file: Path | None) -> dict[str, Any]:
    """Give the whole settings. told: train.deepspeed. precision: train.precision. file: where `source` lies.

    What XTuner fills in ("auto") stays so but for the types: its own choice hangs on the machine that it runs on.
    Raises InputError for a file that holds no JSON object, and for a type that is not the training's.
    """
    found = dict(_read(file)) if file is not None else dict(told) if isinstance(told, Mapping) else {}
    for name, meant in _HALVES.items():
        table = dict(found.get(name) or {})
        enabled = table.get("enabled", "auto")
        if enabled != "auto" and bool(enabled) != (precision == meant):
            step = f"leave {name}.enabled out, or set train.precision"
            raise InputError(Fault(_VALUE, f"{name}.enabled is not train.precision's", precision, str(enabled), step))
        found[name] = {**table, "enabled": precision == meant}
    return found


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InputError(Fault(_VALUE, f"{file.name} is no JSON: {error}")) from None
    if not isinstance(content, dict):
        raise InputError(Fault(_VALUE, f"{file.name} holds no JSON object"))
    return content
