"""Does a model keep to the bounds that the project declares for its probes: a pure decision over scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SHOWN = 3  # failing answers that are told of a probe


@dataclass(frozen=True)
class Bound:
    """What a project declares of a probe's score. required: the build fails beyond it."""

    name: str
    at_least: float | None = None
    at_most: float | None = None
    required: bool = True

    def holds(self, score: float) -> bool:
        """Say whether a score keeps to it; one that is no number does not."""
        above = self.at_least is None or score >= self.at_least
        return above and (self.at_most is None or score <= self.at_most)

    def misses(self, score: float) -> float:
        """Give how far a score is beyond the bound; 0 within."""
        low = 0.0 if self.at_least is None else self.at_least - score
        high = 0.0 if self.at_most is None else score - self.at_most
        return max(0.0, low, high)

    def told(self) -> str:
        """Say what is expected, such as "at least 0.9"."""
        ends = [f"at least {self.at_least:g}" if self.at_least is not None else "",
                f"at most {self.at_most:g}" if self.at_most is not None else ""]  # fmt: skip
        return " and ".join(filter(None, ends))


@dataclass(frozen=True)
class Verdict:
    """What became of a probe. failing: answers beyond the bound, each with its prompt; failed: how many there are."""

    name: str
    score: float | None
    base: float | None
    at_least: float | None
    at_most: float | None
    required: bool
    passed: bool
    failed: int
    prompts: int
    failing: Sequence[Mapping[str, Any]]


def bounds_of(probes: Iterable[Mapping[str, Any]]) -> list[Bound]:
    """Give the bounds of the probes of project.toml, as the schema fills them."""
    return [Bound(probe["name"], probe.get("at_least"), probe.get("at_most"), probe["required"]) for probe in probes]


def verdicts(
    bounds: Iterable[Bound], scores: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], model: str = "merged"
) -> list[Verdict]:
    """Hold a model's scores against the bounds. scores, answers: as evaluate writes them."""
    by_name = {probe["name"]: probe for probe in scores["probes"]}
    found = []
    for bound in bounds:
        told = by_name[bound.name]
        score = told[model]
        own = [one for one in answers if one["probe"] == bound.name and one[f"{model}_value"] is not None]
        beyond = [one for one in own if not bound.holds(one[f"{model}_value"])]
        passed = score is not None and bound.holds(score)
        failing = [{"prompt": one["prompt"], "answer": one[model]} for one in beyond[:SHOWN]]
        found.append(Verdict(
            bound.name, score, told["base"], bound.at_least, bound.at_most, bound.required, passed, len(beyond),
            told["prompts"], failing,
        ))  # fmt: skip
    return found


def passed(found: Iterable[Verdict]) -> bool:
    """Say whether every probe that is required keeps to its bounds."""
    return all(verdict.passed for verdict in found if verdict.required)


def as_json(found: Sequence[Verdict]) -> dict[str, Any]:
    """Give what gate.json holds: passed, and each probe's verdict."""
    return {"passed": passed(found), "probes": [asdict(verdict) for verdict in found]}


def lines_of(told: Mapping[str, Any], gate: str = "gate") -> list[str]:
    """Say what did not pass, from gate.json: each probe with its score and bound, and failing answers below it.

    gate: the stage's name, which tells variants apart.
    """
    lines = []
    for probe in told["probes"]:
        if probe["passed"]:
            continue
        bound = Bound(probe["name"], probe["at_least"], probe["at_most"]).told() or "a number"
        score = "no number" if probe["score"] is None else f"{probe['score']:.4g}"
        base = "" if probe["base"] is None else f"; the base model has {probe['base']:.4g}"
        kind = "" if probe["required"] else " (not required)"
        lines.append(f"{gate}: {probe['name']}: expected {bound}, got {score}{base}{kind}")
        lines += [f"    {_short(one['prompt'])} → {_short(one['answer'])}" for one in probe["failing"]]
        if more := probe["failed"] - len(probe["failing"]):
            lines.append(f"    and {more} more of {probe['prompts']}")
    return lines


def _short(text: str, longest: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
