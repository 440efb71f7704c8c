"""A prompt template to its forms: XTuner's dict, a Hugging Face chat template, a conversation's text and token ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from string import Formatter
from typing import Any, NamedTuple

from tunemake.contracts import Message

_FIELDS = re.compile(r"(\{system\}|\{input\}|\{round\})")
# XTuner puts no beginning-of-sequence token where the tokenizer's class is one of these.
_WITHOUT_BOS = {"QWenTokenizer", "QWen2Tokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast"}


class Piece(NamedTuple):
    """What XTuner encodes by itself, one after the other.

    token: it is one token, put by its id. trained: the loss counts its tokens.
    """

    text: str
    token: bool = False
    trained: bool = False


class Gaps(NamedTuple):
    """Before which pieces the whole text needs a space, so that its token ids are those of the pieces.

    SentencePiece's tokenizers begin every piece as a word: XTuner's ids then hold a space where the pieces meet.
    """

    first: bool = False
    later: bool = False
    answer: bool = False
    separator: bool = False


def as_xtuner(template: Mapping[str, Any]) -> dict[str, Any]:
    """Give XTuner's form (xtuner.utils.PROMPT_TEMPLATE's entries): SYSTEM, INSTRUCTION, SUFFIX, SEP, STOP_WORDS.

    XTuner knows no BOS; load_tokenizer does, and it is there only where it is False.
    """
    form: dict[str, Any] = {
        "SYSTEM": _braced(template["system"]),
        "INSTRUCTION": _braced(template["instruction"]),
        "SEP": template["separator"],
        "STOP_WORDS": list(template["stop_words"]),
    }
    if template["suffix"]:
        form["SUFFIX"] = template["suffix"]
    if template["suffix"] or template["suffix_as_eos"]:
        form["SUFFIX_AS_EOS"] = template["suffix_as_eos"]
    if not template.get("bos", True):
        form["BOS"] = False
    return form


def from_xtuner(form: Mapping[str, Any]) -> dict[str, Any]:
    """Give a prompt template of XTuner's form, with what XTuner does where an entry is absent.

    Raises ValueError for a field that XTuner does not fill.
    """
    return {
        "system": _unbraced(form.get("SYSTEM") or ""),
        "instruction": _unbraced(form["INSTRUCTION"]),
        "suffix": form.get("SUFFIX") or "",
        "suffix_as_eos": bool(form.get("SUFFIX_AS_EOS", False)),
        "separator": form.get("SEP") or "",
        "stop_words": list(form.get("STOP_WORDS") or []),
        "bos": bool(form.get("BOS", True)),
    }


def bos_of(template: Mapping[str, Any], bos: str | None, tokenizer_class: str) -> str | None:
    """Give the beginning-of-sequence token that comes before the text, or None.

    Not where the tokenizer has none, where XTuner puts none, and where the template's own text begins with it: ChatML
    with a tokenizer whose bos is <|im_start|> would have it twice. bos, tokenizer_class: the tokenizer's.
    """
    begins = (template["system"] or template["instruction"], template["instruction"])
    if not bos or not template.get("bos", True) or tokenizer_class in _WITHOUT_BOS:
        return None
    return None if any(text.startswith(bos) for text in begins) else bos


def pieces_of(
    template: Mapping[str, Any], messages: Sequence[Message], bos: str | None, eos: str | None
) -> Iterator[Piece]:
    """Give a conversation as XTuner encodes it; one that ends with a question ends where its answer begins.

    bos: as bos_of gives it. It comes again after each answer that an end-of-sequence token ended. A system message
    stands before the next question, and an empty one is none.
    """
    system, asked, turn, begins = "", "", 0, bos is not None
    waiting = list(messages)
    while waiting and waiting[0]["role"] == "assistant":
        waiting.pop(0)
    for index, message in enumerate(waiting):
        if message["role"] == "system":
            system = message["content"]
        elif message["role"] == "user":
            asked += message["content"]
        if message["role"] != "assistant" and index + 1 < len(waiting):
            continue
        turn += 1
        if begins and bos is not None:
            yield Piece(bos, token=True)
        before = _filled(template["system"], system, "", turn) if system else ""
        yield Piece(before + _filled(template["instruction"], "", asked, turn))
        if message["role"] == "assistant":
            yield Piece(message["content"] + template["suffix"], trained=True)
            if not template["suffix_as_eos"]:
                yield Piece(eos or "", token=True, trained=True)
            begins = not template["suffix_as_eos"]
            yield Piece(template["separator"])
        system = asked = ""


def text_of(
    template: Mapping[str, Any], messages: Sequence[Message], *, bos: str | None = None, eos: str | None = None
) -> str:
    """Give the text of a conversation as training sees it. bos: as bos_of gives it; eos: the tokenizer's."""
    return "".join(piece.text for piece in pieces_of(template, messages, bos, eos))


def ids_of(template: Mapping[str, Any], messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Give the token ids of a conversation as training sees them. tokenizer: one of transformers'."""
    return [one for one, _ in labelled_ids(template, messages, tokenizer)]


def labelled_ids(template: Mapping[str, Any], messages: Sequence[Message], tokenizer: Any) -> list[tuple[int, bool]]:
    """Give the token ids of a conversation as ids_of does, each with whether the loss counts it."""
    bos = bos_of(template, tokenizer.bos_token, type(tokenizer).__name__)
    ids: list[tuple[int, bool]] = []
    for piece in pieces_of(template, messages, bos, tokenizer.eos_token):
        if piece.token:
            ids.append((tokenizer.convert_tokens_to_ids(piece.text), piece.trained))
        else:
            ids += [(one, piece.trained) for one in tokenizer.encode(piece.text, add_special_tokens=False)]
    return ids


def as_chat_template(template: Mapping[str, Any], *, bos: bool, gaps: Gaps = Gaps()) -> str:  # noqa: B008 - immutable
    """Give the same text as a Jinja chat template for a Hugging Face tokenizer.

    bos: the beginning-of-sequence token comes first, as bos_of says. The user's turn already ends where the answer
    begins, so add_generation_prompt changes nothing.
    """
    each = not template["suffix_as_eos"]
    parts = ["{%- set ns = namespace(round=0, system='') %}{%- for message in messages %}"]
    parts.append("{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] %}")
    parts.append("{%- elif message['role'] == 'user' %}{%- set ns.round = ns.round + 1 %}")
    if bos:
        parts.append("{{- bos_token }}" if each else "{%- if ns.round == 1 %}{{- bos_token }}{%- endif %}")
    if gaps.first or gaps.later:
        where = "" if gaps.first and gaps.later else f"ns.round {'==' if gaps.first else '>'} 1"
        parts.append(f"{{%- if {where} %}}{{{{- ' ' }}}}{{%- endif %}}" if where else "{{- ' ' }}")
    if template["system"]:
        parts.append("{%- if ns.system %}" + _output(template["system"]) + "{%- set ns.system = '' %}{%- endif %}")
    parts.append(_output(template["instruction"]))
    end = [_literal(template["suffix"])] + (["eos_token"] if each else [])
    if template["separator"]:
        end.append(_literal((" " if gaps.separator else "") + template["separator"]))
    parts.append("{%- elif message['role'] == 'assistant' %}")
    begin = ["' '"] if gaps.answer else []
    parts.append("{{- " + " ~ ".join([*begin, "message['content']", *end]) + " }}{%- endif %}{%- endfor %}")
    return "".join(parts)


def _filled(text: str, system: str, asked: str, turn: int) -> str:
    values = {"{system}": system, "{input}": asked, "{round}": str(turn)}
    return "".join(values.get(part, part) for part in _parts(text))


@cache
def _parts(text: str) -> list[str]:
    """Cut a template's text at its fields; there are few such texts, and each is filled for every turn of the data."""
    return _FIELDS.split(text)


def _output(text: str) -> str:
    values = {"{system}": "ns.system", "{input}": "message['content']", "{round}": "ns.round"}
    return "{{- " + " ~ ".join(values.get(part) or _literal(part) for part in _FIELDS.split(text) if part) + " }}"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def _braced(text: str) -> str:
    """Write a text for str.format, which XTuner fills it by."""
    parts = _FIELDS.split(text)
    return "".join(part if _FIELDS.fullmatch(part) else part.replace("{", "{{").replace("}", "}}") for part in parts)


def _unbraced(text: str) -> str:
    whole = ""
    for literal, name, form, conversion in Formatter().parse(text):
        whole += literal
        if name is not None:
            if form or conversion or not _FIELDS.fullmatch(f"{{{name}}}"):
                raise ValueError(f"a field that XTuner does not fill: {{{name}}}")
            whole += f"{{{name}}}"
    return whole
