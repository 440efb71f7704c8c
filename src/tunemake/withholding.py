"""What is not handed on before the gate has passed: everything that was made from the training that it judges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a verdict is read where nothing else is
    from tunemake.stage import Stage

VERDICT = "gate.json"


def verdict(folder: Path) -> Mapping[str, Any] | None:
    """Read what a gate's artifact says; None where there is none that can be read."""
    try:
        told = json.loads((folder / VERDICT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("passed"), bool) else None


def gate_of(stages: Mapping[str, Stage], name: str) -> str | None:
    """Name the gate that judges what a stage makes of a training; None where there is none."""
    gates = [gate for gate, stage in stages.items() if stage.kind == "gate"]
    for gate in gates:
        if name in withheld_by(stages, gate) or name in after(stages, gate):
            return gate
    return None


def after(stages: Mapping[str, Stage], gate: str) -> list[str]:
    """Name the stages that are made once a gate has passed: they need it."""
    return [name for name in stages if name != gate and gate in needed(stages, name)]


def withheld_by(stages: Mapping[str, Stage], gate: str) -> list[str]:
    """Name the stages whose artifacts wait for a gate: the training, and what was made from it, the gate included.

    Beside what the gate needs, that is what its variant tells of the model, such as the report; not what is made
    after the gate.
    """
    before, variant, later = set(needed(stages, gate)), stages[gate].variant, after(stages, gate)
    return [
        name for name, stage in stages.items()
        if (name in before or stage.variant == variant) and name not in later and _is_trained(stages, name)
    ]  # fmt: skip


def _is_trained(stages: Mapping[str, Stage], name: str) -> bool:
    return any(stages[one].kind == "train" for one in needed(stages, name))


def needed(stages: Mapping[str, Stage], name: str) -> list[str]:
    """Name a stage and all that it needs, each once."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = None
            waiting += [need.stage for need in stages[one].needs.values()]
    return list(found)
