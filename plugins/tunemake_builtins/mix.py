"""Samples of several generators, mixed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunemake.contracts import Context, GeneratorError, Sample
from tunemake_builtins.rows import schema

_PART: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["generator"],
    "description": "one generator, and how much of it",
    "properties": {
        "generator": {"type": "string", "minLength": 1, "description": "its name"},
        "parameters": {"type": "object", "default": {}, "description": "its parameters"},
        "weight": {"type": "number", "exclusiveMinimum": 0, "description": "its share of samples, beside the others'"},
        "count": {"type": "integer", "minimum": 1, "description": "how many of its samples"},
    },
}


class Mix:
    """A dataset generator: others' samples, in given shares, in an order that the seed draws."""

    summary = "samples of other generators, in shares or numbers of each, shuffled into each other"
    version = "1"
    parameters: Mapping[str, Any] = {
        **schema(
            ["parts"],
            parts={"type": "array", "minItems": 1, "items": _PART, "description": "the generators that are mixed"},
            samples={
                "type": "integer", "minimum": 1,
                "description": "how many in all, where parts have weights; each gives its exact share, rounded",
            },
            when_dry={
                "enum": ["go_on", "stop", "repeat"], "default": "go_on",
                "description": "where a part has fewer samples than it should give: go on without it, end the mix,"
                " or begin the part again",
            },
        ),
        "if": {"required": ["samples"]},
        "then": {"properties": {"parts": {"items": {
            "required": ["weight"], "not": {"required": ["count"]},
            "x-message": "expected a weight and no count, since samples says how many in all",
        }}}},
        "else": {"properties": {"parts": {"items": {
            "required": ["count"], "not": {"required": ["weight"]},
            "x-message": "expected a count and no weight, or samples beside parts and a weight for each",
        }}}},
        "x-message": "expected samples and a weight for each part, or a count for each part",
    }  # fmt: skip

    def uses(self, parameters: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Name the parts' generators."""
        return [(part["generator"], part.get("parameters", {})) for part in parameters["parts"]]

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the samples, each part's in its own order; any order of parts is as likely as any other."""
        told = parameters["parts"]
        counts = [part["count"] for part in told] if "samples" not in parameters else _shares(parameters)
        parts = [
            _Part(number, part, context, left) for number, (part, left) in enumerate(zip(told, counts, strict=True))
        ]
        chance, when_dry = random.Random(context.seed), parameters.get("when_dry", "go_on")
        while left := [part.left for part in parts if part.left]:
            (part,) = chance.choices([part for part in parts if part.left], left)
            sample = part.next(again=when_dry == "repeat")
            if sample is not None:
                yield sample
                continue
            part.tell(when_dry)
            part.left = 0
            if when_dry == "stop":
                return
        for part in parts:
            part.tell(when_dry)


def _shares(parameters: Mapping[str, Any]) -> list[int]:
    """Give each part's number of samples: its share rounded down, and what is left to the largest remainders."""
    weights, wanted = [part["weight"] for part in parameters["parts"]], parameters["samples"]
    exact = [wanted * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: wanted - sum(counts)]:
        counts[number] += 1
    return counts


@dataclass
class _Part:
    """A part: what it still should give, and what it gave."""

    number: int
    told: Mapping[str, Any]
    context: Context
    left: int
    given: int = 0
    begun: int = 0
    samples: Iterator[Sample] = field(default_factory=lambda: iter(()))

    def next(self, *, again: bool) -> Sample | None:
        """Give the next sample, or None where there are no more. again: begin again there."""
        while True:
            sample = next(self.samples, None)
            if sample is not None:
                self.left -= 1
                self.given += 1
                return sample
            if self.begun and not again:
                return None
            if self.begun and not self.given:
                raise GeneratorError(f"{self._name}: gives no samples that could be repeated")
            self.begun += 1
            self.samples = self._from_the_start()

    def tell(self, when_dry: str) -> None:
        """Tell where it gave fewer than it should, or the same ones again."""
        if self.left:
            ended = "; the mix ends there" if when_dry == "stop" else ""
            self.context.say(f"mix: {self._name}: {self.given} samples instead of {self.given + self.left}{ended}")
        elif self.begun > 1:
            self.context.say(f"mix: {self._name}: begun {self.begun} times for {self.given} samples")

    def _from_the_start(self) -> Iterator[Sample]:
        try:
            yield from self.context.samples_of(self.told["generator"], self.told.get("parameters", {}))
        except GeneratorError as error:
            raise GeneratorError(f"{self._name}: {error}") from error

    @property
    def _name(self) -> str:
        return f"parts[{self.number}] ({self.told['generator']})"
