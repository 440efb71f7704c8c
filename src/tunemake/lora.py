"""What a PEFT adapter_config.json says about a merge: ranks, scales, which modules, which biases.

Whatever it can say that changes the merged weights and is not computed here is refused by name: a merge that
ignores something is wrong without a word.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunemake.faults import Fault, ModelError

# What does not change the merged weights, or is computed below.
HARMLESS = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora"),
    *("modules_to_save", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "alpha_pattern", "init_lora_weights", "eva_config", "runtime_config"),
    *("megatron_core", "qalora_group_size"),  # they say something only beside megatron_config and use_qalora
}
# The other ways to begin (PiSSA, OLoRA, CorDA, LoftQ, …) change the base's weights before training.
BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraConfig:
    """The values of an adapter_config.json that decide the merged weights."""

    r: int
    alpha: float
    rslora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    targets: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def rank(self, module: str) -> int:
        """Give the module's rank: the first pattern that matches the end of its name, else r."""
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """Give what B·A is multiplied by."""
        rank = self.rank(module)
        return float(_by_pattern(self.alpha_pattern, module, self.alpha)) / (math.sqrt(rank) if self.rslora else rank)

    def targeted(self, module: str) -> bool:
        """Say whether the adapter's config puts LoRA on the module."""
        if self.targets is None or self.targets == "all-linear":
            return True
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, module) is not None
        return any(module == name or module.endswith(f".{name}") for name in self.targets)


def read_lora_config(path: Path) -> LoraConfig:
    """Read adapter_config.json; ModelError names everything in it that a merge here would get wrong."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(Fault(str(path), f"cannot be read: {error}")) from error
    if not isinstance(told, dict):
        raise ModelError(Fault(str(path), "no JSON object"))
    faults = [*_refused(path, told), *_wrong_values(path, told)]
    if faults:
        raise ModelError(faults)
    targets = told.get("target_modules")
    return LoraConfig(
        r=told["r"],
        alpha=told["lora_alpha"],
        rslora=bool(told.get("use_rslora")),
        fan_in_fan_out=bool(told.get("fan_in_fan_out")),
        bias=told.get("bias") or "none",
        targets=tuple(targets) if isinstance(targets, list) else targets,
        modules_to_save=tuple(told.get("modules_to_save") or ()),
        rank_pattern=told.get("rank_pattern") or {},
        alpha_pattern=told.get("alpha_pattern") or {},
    )


def _by_pattern(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """Give the value of the first pattern that matches the end of a module's name, at a dot, as PEFT does."""
    return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), otherwise)


def _refused(path: Path, told: Mapping[str, Any]) -> Iterator[Fault]:
    """Give a fault for each key with a value that would change the merged weights."""
    for key, value in told.items():
        if key not in HARMLESS and value not in (None, False, "", [], {}):
            yield Fault(str(path), f"{key} cannot be merged", got=json.dumps(value))
    if told.get("peft_type") != "LORA":
        yield Fault(str(path), "peft_type cannot be merged", "LORA", str(told.get("peft_type")))
    beginning = told.get("init_lora_weights", True)
    if beginning not in BEGINNINGS:
        next_step = "save the adapter with path_initial_model_for_weight_conversion, as PEFT's documentation says"
        what = "init_lora_weights changes the base model's weights"
        yield Fault(str(path), what, got=json.dumps(beginning), next_step=next_step)


def _wrong_values(path: Path, told: Mapping[str, Any]) -> Iterator[Fault]:
    """Give a fault for each value of a known key that is no value for it."""
    ranks = {"r": told.get("r"), **_pattern(told, "rank_pattern")}
    alphas = {"lora_alpha": told.get("lora_alpha"), **_pattern(told, "alpha_pattern")}
    for key, value in ranks.items():
        if type(value) is not int or value < 1:
            yield Fault(str(path), f"{key} is no rank", "a whole number above 0", repr(value))
    for key, value in alphas.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            yield Fault(str(path), f"{key} is no scale", "a number", repr(value))
    if told.get("bias") not in (None, "none", "all", "lora_only"):
        yield Fault(str(path), "bias is unknown", "none, all or lora_only", repr(told["bias"]))
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in told.get(key) or {}:
            if not _is_regular(pattern):
                yield Fault(str(path), f"{key} has an invalid regular expression", got=pattern)


def _pattern(told: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {f"{key}.{pattern}": value for pattern, value in (told.get(key) or {}).items()}


def _is_regular(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
