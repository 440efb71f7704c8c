"""A prompt template to its three forms: XTuner's dict, a Hugging Face chat template, plain text with stop words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunemake.contracts import Message


def as_xtuner(template: Mapping[str, Any]) -> dict[str, Any]:
    """Give XTuner's form (xtuner.utils.PROMPT_TEMPLATE's entries): SYSTEM, INSTRUCTION, SUFFIX, SEP, STOP_WORDS."""
    form: dict[str, Any] = {
        "SYSTEM": template["system"],
        "INSTRUCTION": template["instruction"],
        "SEP": template["separator"],
        "STOP_WORDS": list(template["stop_words"]),
    }
    if template["suffix"]:
        form["SUFFIX"] = template["suffix"]
        form["SUFFIX_AS_EOS"] = template["suffix_as_eos"]
    return form


def as_chat_template(template: Mapping[str, Any], *, starts_with_bos: bool) -> str:
    """Give the same text as a Jinja chat template for a Hugging Face tokenizer.

    starts_with_bos: the tokenizer's beginning-of-sequence token comes first, as XTuner puts it in training.
    The user's turn already ends where the answer begins, so add_generation_prompt changes nothing.
    """
    before, after = template["instruction"].split("{input}", 1)
    end = _literal(template["suffix"]) + ("" if template["suffix_as_eos"] else " ~ eos_token")
    parts = ["{{- bos_token }}"] if starts_with_bos else []
    parts.append("{%- for message in messages %}")
    opening = "if"
    if template["system"]:
        first, last = template["system"].split("{system}", 1)
        parts.append("{%- if message['role'] == 'system' %}" + _output(first, "message['content']", last))
        opening = "elif"
    parts.append(f"{{%- {opening} message['role'] == 'user' %}}" + _output(before, "message['content']", after))
    parts.append("{%- elif message['role'] == 'assistant' %}")
    parts.append("{{- message['content'] ~ " + end + " ~ " + _literal(template["separator"]) + " }}")
    parts.append("{%- endif %}{%- endfor %}")
    return "".join(parts)


def text_of(template: Mapping[str, Any], messages: Sequence[Message]) -> str:
    """Give the text of a conversation as training sees it, without begin- and end-of-sequence tokens."""
    text = ""
    for message in messages:
        if message["role"] == "system":
            text += template["system"].replace("{system}", message["content"])
        elif message["role"] == "user":
            text += template["instruction"].replace("{input}", message["content"])
        else:
            text += message["content"] + template["suffix"] + template["separator"]
    return text


def bos_comes_first(template: Mapping[str, Any], bos: str | None) -> bool:
    """Say whether a beginning-of-sequence token is put before the text.

    Not where the tokenizer has none, and not where the template's own text begins with it: ChatML with a tokenizer
    whose bos is <|im_start|> would have it twice.
    """
    begins = (template.get("system") or template["instruction"], template["instruction"])
    return bos is not None and not any(text.startswith(bos) for text in begins)


def _output(before: str, value: str, after: str) -> str:
    return "{{- " + " ~ ".join([_literal(before), value, _literal(after)]) + " }}"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
