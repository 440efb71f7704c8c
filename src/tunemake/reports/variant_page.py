"""The page of one variant: what is shown, put into words and drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunemake.reports.card import flat
from tunemake.reports.lineage import Node
from tunemake.reports.pages import html
from tunemake.reports.plots import Curve, histogram, plot, smoothed, thinned
from tunemake.reports.portable import base_source, portable

_CURVES = ("iteration", "loss", "lr", "tokens_per_second", "peak_bytes")
_SPAN = 20  # points that the moving average of the loss looks back over
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Shown:
    """What a page shows, as run_figures, lineage and comparison give it. parameters: the report stage's.

    onto: what the adapter was merged onto, where that is to be told.
    """

    parameters: Mapping[str, Any]
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    checkpoints: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    nodes: Sequence[Node]
    history: tuple[Sequence[Mapping[str, Any]], int]
    variants: Sequence[Mapping[str, Any]] = ()
    onto: str = ""


def variant_page(shown: Shown) -> str:
    """Render the page."""
    own = shown.parameters
    return html(
        "variant.html.jinja",
        {
            "project": own["project"], "variant": own["variant"], "base_name": base_source(own["base"]),
            "base": shown.base, "datasets": portable(own["datasets"]), "train": flat(portable(own["train"])),
            "template": own["prompt_template"], "verdict": verdict(shown.evaluation), "evaluation": shown.evaluation,
            "training": shown.training, "checkpoints": shown.checkpoints, "data": shown.data, "nodes": shown.nodes,
            "history": shown.history[0], "earlier": shown.history[1], "variants": shown.variants,
            "plots": _plots(shown), "onto": shown.onto,
        },
    )  # fmt: skip


def verdict(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Say in words what the gate says. state: passed, failed or none."""
    if evaluation is None:
        return {"state": "none", "title": "Not judged", "lines": ["The project asks no probes of its model."]}
    bound = [probe for probe in evaluation["probes"] if probe["expected"]]
    failed = [probe for probe in bound if not probe["passed"]]
    lines = [_failure(probe) for probe in failed]
    if evaluation["passed"]:
        kept = f"{len(bound) - len(failed)} of its {len(bound)} bounds" if failed else f"all {len(bound)} of its bounds"
        told = f"The model keeps to {kept}." if bound else "No probe has a bound."
        return {"state": "passed", "title": "Passed", "lines": [told, *lines]}
    return {"state": "failed", "title": "Failed", "lines": lines}


def _failure(probe: Mapping[str, Any]) -> str:
    got = "no number" if probe["score"] is None else f"{probe['score']:.4g}"
    base = "" if probe["base"] is None else f" (the base model: {probe['base']:.4g})"
    answers = f"; {probe['failed']} of {probe['prompts']} answers are beyond it" if probe["failed"] else ""
    required = "" if probe["required"] else " Not required."
    return f"{probe['name']}: expected {probe['expected']}, got {got}{base}{answers}.{required}"


def _plots(shown: Shown) -> dict[str, Any]:
    rows = thinned(shown.training["rows"], _CURVES)
    at = [row["iteration"] for row in rows]
    chosen = shown.checkpoints["iteration"] if shown.checkpoints else None

    def of(name: str, key: str, label: str, unit: float = 1) -> str:
        return plot(name, [Curve(at, [row[key] / unit for row in rows])], label)

    lengths, limit = shown.data["lengths"], (shown.data["tokens"] or {}).get("max_length")
    return {
        "loss": _loss(rows, at, shown.checkpoints), "lr": of("lr", "lr", "learning rate"),
        "speed": of("speed", "tokens_per_second", "tokens a second"),
        "memory": of("memory", "peak_bytes", "peak memory, MiB", _MEBIBYTE),
        "lengths": histogram("lengths", lengths, "tokens", limit=limit if lengths and max(lengths) >= limit else None),
        "probes": _probes(shown, chosen),
    }  # fmt: skip


def _loss(rows: Sequence[Mapping[str, float]], at: Sequence[float], found: Mapping[str, Any] | None) -> str:
    losses = [row["loss"] for row in rows]
    curves = [Curve(at, losses, 1, faint=True), Curve(at, smoothed(losses, _SPAN), 1)]
    held = [row for row in found["checkpoints"] if row["held_out_loss"] is not None] if found else []
    if held:
        x, y = [row["iteration"] for row in held], [row["held_out_loss"] for row in held]
        curves.append(Curve(x, y, 2, dots=True))
    return plot("loss", curves, "loss", chosen=found["iteration"] if found and len(found["checkpoints"]) > 1 else None)


def _probes(shown: Shown, chosen: float | None) -> list[dict[str, Any]]:
    """Draw each probe's scores over the checkpoints, where there are several."""
    if shown.checkpoints is None or len(shown.checkpoints["checkpoints"]) < 2:  # noqa: PLR2004 - a curve's least
        return []
    bounds = {bound["name"]: bound for bound in shown.parameters["bounds"]}
    drawn = []
    for number, name in enumerate(shown.checkpoints["probes"]):
        rows = [row for row in shown.checkpoints["checkpoints"] if row["scores"].get(name) is not None]
        curve = Curve([row["iteration"] for row in rows], [row["scores"][name] for row in rows], 1, dots=True)
        told = [bounds.get(name, {}).get(end) for end in ("at_least", "at_most")]
        lines = [bound for bound in told if bound is not None]
        drawn.append({"name": name, "svg": plot(f"probe{number}", [curve], "score", bounds=lines, chosen=chosen)})
    return drawn
