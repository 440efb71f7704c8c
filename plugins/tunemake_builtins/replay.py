"""The base model's own answers to general prompts, trained on beside the new things so that it stays itself."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, Sample


class Replay:
    """A dataset generator: prompts, and what the base model greedily answers to them.

    Answers that reach max_new_tokens are kept as they are, cut in the middle.
    """

    summary = "the base model's own greedy answers to general prompts, so that it stays itself"
    version = "1"
    needs = ("base",)
    parameters: Mapping[str, Any] = {  # noqa: RUF012 - read, never written
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "required": ["samples"],
        "properties": {
            "samples": {"type": "integer", "minimum": 1, "description": "how many conversations; at most one a prompt"},
            "prompts": {
                "type": ["string", "array"], "items": {"type": "string", "minLength": 1}, "minItems": 1,
                "description": "a text file with one prompt a line, or a list; left out: general ones that ship",
            },
            "max_new_tokens": {
                "type": "integer", "minimum": 1, "default": 40, "description": "longest answer in tokens",
            },
        },
    }  # fmt: skip

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the file of prompts, where one is given."""
        told = parameters.get("prompts")
        return [Path(told)] if isinstance(told, str) else []

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give a conversation for each chosen prompt that the base model answers at all."""
        prompts = _prompts(parameters.get("prompts"), context.root)
        wanted = parameters["samples"]
        if wanted > len(prompts):
            message = f"{wanted} samples are asked for, and there are {len(prompts)} prompts"
            raise ValueError(message)
        chosen = random.Random(context.seed).sample(prompts, wanted)
        assert context.base is not None
        answers = context.base.answer(
            [[{"role": "user", "content": prompt}] for prompt in chosen], parameters.get("max_new_tokens", 40)
        )
        for number, (prompt, answer) in enumerate(zip(chosen, answers, strict=True), 1):
            context.progress(number, wanted)
            if answer:
                yield {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _prompts(told: Any, root: Path) -> list[str]:
    if isinstance(told, list):
        return [str(prompt) for prompt in told]
    text = (root / told).read_text("utf-8") if told else (files(__package__) / "general_prompts.txt").read_text("utf-8")
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
