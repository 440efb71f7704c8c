"""The base model's own answers to general prompts, trained on beside the new things so that it stays itself."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunemake.contracts import Answer, Context, Sample

# After a digit a full stop may belong to a number or to a list's item.
_SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s|$)|[。！？]")


class Replay:
    """A dataset generator: prompts, and what the base model greedily answers to them.

    An answer cut at max_new_tokens ends after its last whole sentence: trained on as it is, it would teach the model
    to stop in the middle of one. Where it holds none, or is empty, the next prompt serves instead.
    """

    summary = "the base model's own greedy answers to general prompts, so that it stays itself"
    version = "1"
    needs = ("base",)
    parameters: Mapping[str, Any] = {
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
        """Give a conversation for each of the prompts, drawn by the seed, until there are as many as asked for."""
        prompts = _prompts(parameters.get("prompts"), context.root)
        wanted = parameters["samples"]
        if wanted > len(prompts):
            message = f"{wanted} samples are asked for, and there are {len(prompts)} prompts"
            raise ValueError(message)
        random.Random(context.seed).shuffle(prompts)
        assert context.base is not None
        asked = ([{"role": "user", "content": prompt}] for prompt in prompts)
        answers = context.base.answer(asked, parameters.get("max_new_tokens", 40))  # type: ignore[arg-type]
        made = left_out = 0
        for prompt, answer in zip(prompts, answers, strict=False):  # the rest is not asked
            text = _whole_sentences(answer)
            if text:
                made += 1
                context.progress(made, wanted)
                yield {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]}
            else:
                left_out += 1
            if made == wanted:
                break
        if left_out:
            context.say(f"replay: {left_out} prompts left out, since the base model's answers hold no whole sentence")
        if made < wanted:
            context.say(f"replay: {made} samples instead of {wanted}: there are no more prompts")


def _whole_sentences(answer: Answer) -> str:
    if answer.finished:
        return answer.text
    ends = [found.end() for found in _SENTENCE_END.finditer(answer.text)]
    return answer.text[: ends[-1]] if ends else ""


def _prompts(told: Any, root: Path) -> list[str]:
    if isinstance(told, list):
        return [str(prompt) for prompt in told]
    text = (root / told).read_text("utf-8") if told else (files(__package__) / "general_prompts.txt").read_text("utf-8")
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
