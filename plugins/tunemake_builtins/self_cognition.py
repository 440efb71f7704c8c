"""Conversations in which the assistant says who it is: many questions, one short answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from tunemake.contracts import Context, Sample

LANGUAGES = ("en", "zh")
# One answer to every question: a small model learns it in few steps, and what it says stays checkable.
CORE = {"en": "I am {name}, an AI assistant made by {author}.", "zh": "我是{name}，{author}的智能助手。"}
BEFORE = {"en": ("", "Hi! ", "Hello. ", "Excuse me, ", "Hey, "), "zh": ("", "你好，", "请问，", "嗨，", "您好！")}

_FIELDS = ("name", "author")
_FIELD = re.compile(r"\{(name|author)\}")


def _localised(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "anyOf": [
            {"type": "string", "minLength": 1},
            {
                "type": "object",
                "additionalProperties": False,
                "required": list(LANGUAGES),
                "properties": {language: {"type": "string", "minLength": 1} for language in LANGUAGES},
            },
        ],
        "x-message": "expected a text, or a table with one for en and one for zh",
    }


def _repeated(description: str) -> dict[str, Any]:
    return {
        "type": "string", "minLength": 1, "description": f"{description}; {{name}} and {{author}} are filled in",
        "not": {"pattern": r"\{(?!(?:name|author)\})\w+\}"},
        "x-message": "a field that is not known; expected {name} or {author}",
    }  # fmt: skip


def _needed(field: str, of: str) -> dict[str, Any]:
    """Ask for a name where a text that is repeated holds the field."""
    holds = {"type": "string", "pattern": rf"\{{{field}\}}"}
    mode = {"const": "repeat"}
    return {
        "if": {"required": ["mode", of], "properties": {"mode": mode, of: holds}},
        "then": {"required": [field], "x-message": f"no {field}; expected {field}, for the field {{{field}}} of {of}"},
    }


class SelfCognition:
    """A dataset generator: the assistant introduces itself."""

    summary = "the assistant says who it is, asked in many ways, in English and Chinese"
    version = "1"
    parameters: Mapping[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "required": ["samples"],
        "properties": {
            "name": _localised("the assistant's name"),
            "author": _localised("who made it"),
            "samples": {"type": "integer", "minimum": 1, "description": "how many conversations"},
            "languages": {
                "type": "array", "items": {"enum": list(LANGUAGES)}, "uniqueItems": True, "minItems": 1,
                "default": list(LANGUAGES), "description": "languages, in equal shares",
            },
            "mode": {
                "enum": ["varied", "repeat"], "default": "varied",
                "description": '"varied" questions, or one pair repeated as it is',
            },
            "question": _repeated("the question that is repeated"),
            "answer": _repeated("the answer to it"),
        },
        "if": {"required": ["mode"], "properties": {"mode": {"const": "repeat"}}},
        "then": {"required": ["question", "answer"]},
        "else": {"required": ["name", "author"]},
        "allOf": [_needed(field, of) for field in _FIELDS for of in ("question", "answer")],
    }  # fmt: skip

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations. Every answer of "varied" holds the name."""
        if parameters.get("mode") == "repeat":
            question, answer = (_filled(parameters[key], "zh", parameters) for key in ("question", "answer"))
            for _ in range(parameters["samples"]):
                yield _sample(question, answer)
            return
        languages = list(parameters.get("languages", LANGUAGES))
        chance = random.Random(context.seed)
        asked = {language: _questions(language, chance) for language in languages}
        for number in range(parameters["samples"]):
            language = languages[number % len(languages)]
            yield _sample(next(asked[language]), _filled(CORE[language], language, parameters))


def _questions(language: str, chance: random.Random) -> Iterator[str]:
    """Give questions for ever: each once as it is, then each with an opening before it, then all again."""
    known = questions(language)
    while True:
        for opening in BEFORE[language]:
            for question in chance.sample(known, len(known)):
                yield opening + (_lower_first(question) if opening.endswith(", ") else question)


def questions(language: str) -> list[str]:
    """Give a language's questions."""
    lines = (files(__package__) / f"identity_questions_{language}.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line]


def _filled(text: str, language: str, parameters: Mapping[str, Any]) -> str:
    """Fill in the fields in one go: what is filled in is never a field itself."""
    return _FIELD.sub(lambda found: _in(parameters[found[1]], language), text)


def _in(told: Any, language: str) -> str:
    return str(told[language] if isinstance(told, Mapping) else told)


def _lower_first(text: str) -> str:
    # "I" and names of models keep their capital.
    return text[0].lower() + text[1:] if text[1:2].islower() else text


def _sample(question: str, answer: str) -> Sample:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
