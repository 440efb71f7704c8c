"""The base model's own answers to general prompts, trained on beside the new things so that it stays itself."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunemake.contracts import Answer, Context, GeneratorError, Sample

LANGUAGES = ("en", "zh")
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
            "languages": {
                "type": "array", "items": {"enum": list(LANGUAGES)}, "uniqueItems": True, "minItems": 1,
                "default": list(LANGUAGES), "description": "languages of the prompts that ship, in equal shares",
            },
            "max_new_tokens": {
                "type": "integer", "minimum": 1, "default": 40, "description": "longest answer in tokens",
            },
            "sentences": {
                "type": "integer", "minimum": 1,
                "description": "how many sentences of an answer are kept; left out: all. Few cost less training",
            },
        },
    }  # fmt: skip

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the file of prompts, where one is given."""
        told = parameters.get("prompts")
        return [Path(told)] if isinstance(told, str) else []

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give a conversation for each of the prompts, drawn by the seed, until there are as many as asked for."""
        prompts = _prompts(parameters, context.root)
        wanted, there = parameters["samples"], sum(map(len, prompts))
        if wanted > there:
            raise GeneratorError(f"samples: more than there are prompts; expected at most {there}, got {wanted}")
        chance = random.Random(context.seed)
        waiting = [_answered(chance.sample(texts, len(texts)), parameters, context) for texts in prompts]
        made = left_out = 0
        while waiting and made < wanted:
            prompt, text = next(waiting[0], (None, ""))
            if prompt is None:
                del waiting[0]  # no more in this language
            elif not text:
                left_out += 1
            else:
                made += 1
                context.progress(made, wanted)
                yield {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]}
                waiting.append(waiting.pop(0))
        if left_out:
            context.say(f"replay: {left_out} prompts left out, since the base model's answers hold no whole sentence")
        if made < wanted:
            context.say(f"replay: {made} samples instead of {wanted}: there are no more prompts")


def _prompts(parameters: Mapping[str, Any], root: Path) -> list[list[str]]:
    """Give the prompts, a list for each language; of one's own there is one list."""
    told = parameters.get("prompts")
    if isinstance(told, list):
        return [told]
    if told:
        return [_lines(_text(root / told, told))]
    return [shipped(language) for language in parameters.get("languages", LANGUAGES)]


def _text(path: Path, told: str) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GeneratorError(f"{told}: not UTF-8 at byte {error.start + 1} of the file; save it as UTF-8") from error
    except FileNotFoundError:
        raise GeneratorError(f"{told}: no such file") from None
    except OSError as error:
        raise GeneratorError(f"{told}: cannot be read: {error.strerror or error}") from error


def shipped(language: str) -> list[str]:
    """Give the general prompts of a language that ship."""
    return _lines((files(__package__) / f"general_prompts_{language}.txt").read_text("utf-8"))


def _lines(text: str) -> list[str]:
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def _answered(
    prompts: Sequence[str], parameters: Mapping[str, Any], context: Context
) -> Iterator[tuple[str | None, str]]:
    """Give each prompt with what is kept of the base model's answer; the model is asked batch by batch."""
    assert context.base is not None
    asked = ([{"role": "user", "content": prompt}] for prompt in prompts)
    answers = context.base.answer(asked, parameters.get("max_new_tokens", 40))  # type: ignore[arg-type]
    for prompt, answer in zip(prompts, answers, strict=True):
        yield prompt, _whole_sentences(answer, parameters.get("sentences"))


def _whole_sentences(answer: Answer, most: int | None) -> str:
    ends = [found.end() for found in _SENTENCE_END.finditer(answer.text)]
    if answer.finished:
        ends.append(len(answer.text))  # the same once more, where the answer ends with a full stop
    kept = answer.text[: ends[:most][-1]] if ends else ""
    return "" if kept.isspace() else kept
