"""Runs what a Modelfile's template uses of Go's templates (text/template), over Ollama's .Messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ACTION = re.compile(r"\{\{(-?)((?:\"(?:\\.|[^\"\\])*\"|[^\"}])*?)(-?)\}\}")
_TOKEN = re.compile(r"\s*(\"(?:\\.|[^\"\\])*\"|[()]|[^\s()]+)")
_OPENING = ("if ", "range ")


def rendered(source: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Give the text that a template makes of messages; raises ValueError for what is not known here."""
    steps = _parsed(source)
    out: list[str] = []
    end = _run(steps, 0, {"Messages": [{"Role": m["role"], "Content": m["content"]} for m in messages]}, {}, out)
    if end != len(steps):
        raise ValueError("an end too many")
    return "".join(out)


def _parsed(source: str) -> list[str]:
    """Give the actions; all text between them must be trimmed away, since no template of ours has any."""
    steps, at = [], 0
    for found in _ACTION.finditer(source):
        if source[at : found.start()]:
            raise ValueError(f"text outside of actions: {source[at : found.start()]!r}")
        steps.append(found[2].strip())
        at = found.end()
    if source[at:]:
        raise ValueError(f"no action: {source[at:]!r}")
    return steps


def _run(steps: list[str], at: int, dot: Any, variables: dict[str, Any], out: list[str] | None) -> int:
    """Run steps up to the end or else of their block; give its place. out: None where a branch is only passed by."""
    while at < len(steps) and steps[at] != "end" and not steps[at].startswith("else"):
        step = steps[at]
        if step.startswith("if "):
            at = _branches(steps, at, dot, variables, out)
        elif step.startswith("range "):
            at = _loop(steps, at, dot, variables, out)
        elif out is not None:
            _do(step, dot, variables, out)
        at += 1
    return at


def _branches(steps: list[str], at: int, dot: Any, variables: dict[str, Any], out: list[str] | None) -> int:
    taken = out is None
    while steps[at] != "end":
        test = steps[at].removeprefix("else").strip().removeprefix("if").strip()
        goes = not taken and (not test or bool(_value(test, dot, variables)))
        taken = taken or goes
        at = _run(steps, at + 1, dot, variables, out if goes else None)
    return at


def _loop(steps: list[str], at: int, dot: Any, variables: dict[str, Any], out: list[str] | None) -> int:
    items = [] if out is None else _value(steps[at].removeprefix("range "), dot, variables)
    for item in items:
        _run(steps, at + 1, item, variables, out)
    return _run(steps, at + 1, dot, variables, None)


def _do(step: str, dot: Any, variables: dict[str, Any], out: list[str]) -> None:
    found = re.fullmatch(r"(\$\w+)\s*(:?=)\s*(.+)", step, re.DOTALL)
    if found is None:
        value = _value(step, dot, variables)
        out.append(str(value))
        return
    if (found[1] in variables) == (found[2] == ":="):
        raise ValueError(f"declared twice or never: {step}")
    variables[found[1]] = _value(found[3], dot, variables)


def _value(text: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    words_left = iter(_TOKEN.findall(text))
    return _call(words_left, dot, variables)


def _call(words_left: Iterator[str], dot: Any, variables: Mapping[str, Any]) -> Any:
    """Give the value of a pipeline's one command: a value, or a function and its arguments."""
    words = []
    for word in words_left:
        if word == ")":
            break
        words.append(_call(words_left, dot, variables) if word == "(" else _word(word, dot, variables))
    first, *rest = words
    if not callable(first):
        if rest:
            raise ValueError(f"no function: {first!r}")
        return first
    return first(*rest)


def _word(word: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    functions = {
        "eq": lambda a, b: a == b, "gt": lambda a, b: a > b, "len": lambda a: len(a.encode()),
        "printf": lambda form, *values: form % values,
    }  # fmt: skip
    if word in functions:
        return functions[word]
    if word.startswith('"'):
        return ast.literal_eval(word)  # the escapes that are used mean the same in Go and Python
    if word.startswith("."):
        return dot[word[1:]]
    return variables[word] if word.startswith("$") else {"true": True}.get(word) or int(word)
