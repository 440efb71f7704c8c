"""A Modelfile for Ollama: the prompt template as one of Go's, the stop words, and the parameters that are declared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunemake.prompts import Gaps

_FIELDS = re.compile(r"(\{system\}|\{input\}|\{round\})")


def modelfile(
    gguf: str, template: str, stops: Sequence[str], parameters: Mapping[str, Any], system: str | None = None
) -> str:
    """Give the text of a Modelfile. gguf: the file's name beside it. template: as go_template gives it.

    parameters: Ollama's, by name. Raises ValueError for a text that a Modelfile cannot hold.
    """
    lines = [f"FROM ./{gguf}", f"TEMPLATE {_quoted(template)}"]
    lines += [] if system is None else [f"SYSTEM {_quoted(system)}"]
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    lines += [f"PARAMETER {name} {_value(value)}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def stop_words(template: Mapping[str, Any]) -> list[str]:
    """Give the texts at which an answer ends: the template's stop words, and the suffix that it was trained to end by.

    The tokens that end an answer are in the GGUF.
    """
    ends = [*template["stop_words"], template["suffix"].strip() if template["suffix_as_eos"] else ""]
    return list(dict.fromkeys(word for word in ends if word))


def go_template(template: Mapping[str, Any], *, bos: str | None, eos: str | None, gaps: Gaps = Gaps()) -> str:  # noqa: B008 - immutable
    """Give the text of prompts.as_chat_template as a template of Go's, over Ollama's .Messages.

    bos: as prompts.bos_of gives it; the first one is left to the GGUF, whose add_bos_token says that it comes. eos: the
    tokenizer's. Rounds are counted by the length of a text, since Go's templates cannot add.
    """
    each = not template["suffix_as_eos"]
    parts = ['{{- $system := "" }}{{- $round := "" }}{{- range .Messages }}']
    parts.append('{{- if eq .Role "system" }}{{- $system = .Content }}')
    parts.append('{{- else if eq .Role "user" }}')
    if bos and each:
        parts.append(f"{{{{- if $round }}}}{{{{ {_literal(bos)} }}}}{{{{- end }}}}")
    parts.append('{{- $round = printf "%s." $round }}')
    if gaps.first or gaps.later:
        test = "true" if gaps.first and gaps.later else f"{'eq' if gaps.first else 'gt'} (len $round) 1"
        parts.append(f'{{{{- if {test} }}}}{{{{ " " }}}}{{{{- end }}}}')
    if template["system"]:
        parts.append("{{- if $system }}" + _output(template["system"]) + '{{- $system = "" }}{{- end }}')
    parts.append(_output(template["instruction"]))
    end = template["suffix"] + (eos or "" if each else "")
    end += (" " if gaps.separator else "") + template["separator"] if template["separator"] else ""
    parts.append('{{- else if eq .Role "assistant" }}')
    parts.append((f"{{{{- {_literal(' ')} }}}}" if gaps.answer else "") + "{{- .Content }}")
    parts.append((f"{{{{- {_literal(end)} }}}}" if end else "") + "{{- end }}{{- end }}")
    return "".join(parts)


def _output(text: str) -> str:
    values = {"{system}": "$system", "{input}": ".Content", "{round}": "len $round"}
    return "".join(f"{{{{- {values.get(part) or _literal(part)} }}}}" for part in _FIELDS.split(text) if part)


def _literal(text: str) -> str:
    r"""Write a text as Go's string literal; a quote as \x22, so that a Modelfile's three never stand there."""
    escapes = {"\\": "\\\\", '"': "\\x22", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(letter, letter) for letter in text) + '"'


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Quote a text for a Modelfile, which knows no escapes: between its quotes it stands as it is."""
    if '"""' in text:
        raise ValueError(f"a Modelfile cannot hold three quotes in a row: {text[:60]!r}")
    return f'"""{text}"""' if '"' in text else f'"{text}"'
