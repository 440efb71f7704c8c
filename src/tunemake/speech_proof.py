"""Proof that a merged model speaks as declared: the chat template renders the prompt template, answers end rightly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from tunemake import prompts
from tunemake.chat_templates import ChatTemplate, RenderError, conversation, read_chat_template
from tunemake.contracts import Message
from tunemake.faults import Fault
from tunemake.folder_proof import json_object
from tunemake.model_folder import read_config
from tunemake.seams import PROBES, encoder

# What a template could trip over: spaces, quotes, other scripts, Jinja's own signs.
_TURNS = [("Who are you?", "I am\n a 'model' {{ x }}."), ("  2 + 2? ", "4"), ("Ça va?", "你好"), ("\\n", "<b>")]


def speech_faults(
    merged: Path, base: Path, template: Mapping[str, Any], *, trust_remote_code: bool = False
) -> Iterator[Fault]:
    """Give every fault of the chat template, and of what ends an answer. template: the project's, resolved."""
    if (merged / "chat_template.jinja").exists():
        yield Fault("merge", "chat_template.jinja is there, and transformers prefers it to the one that was set")
    yield from _template_faults(merged, template, trust_remote_code=trust_remote_code)
    yield from _end_faults(merged, base, template)


def _template_faults(merged: Path, template: Mapping[str, Any], *, trust_remote_code: bool) -> Iterator[Fault]:
    """Give the first conversation that is rendered otherwise than the prompt template says, or a source not ours.

    Where a tokenizer begins every piece as a word, the chat template has spaces that the text of training has not:
    then the token ids must be the same.
    """
    own = read_chat_template(merged)
    bos = prompts.bos_of(template, own.tokens.get("bos_token"), own.tokenizer_class)
    gaps = [prompts.Gaps(*spaces) for spaces in product((False, True), repeat=4)]
    plain, *spaced = [prompts.as_chat_template(template, bos=bos is not None, gaps=gap) for gap in gaps]
    if own.source != plain and own.source in spaced:
        yield from _id_faults(merged, template, own, trust_remote_code=trust_remote_code)
        return
    for messages in _conversations():
        wanted = prompts.text_of(template, messages, bos=bos, eos=own.tokens.get("eos_token"))
        try:
            got = own.render(messages, ask=messages[-1]["role"] == "user")
        except RenderError as error:
            yield Fault("merge", "the chat template cannot be rendered", got=str(error))
            return
        if got != wanted:
            yield Fault("merge", "the chat template is not the prompt template", *_around(wanted, got))
            return
    if own.source != plain:
        yield Fault("merge", "the chat template's source is not the one of the prompt template")


def _id_faults(
    merged: Path, template: Mapping[str, Any], own: ChatTemplate, *, trust_remote_code: bool
) -> Iterator[Fault]:
    """Give a fault where the chat template's text has other token ids than the pieces that training sees."""
    encode = encoder(merged, trust_remote_code=trust_remote_code)
    bos = prompts.bos_of(template, own.tokens.get("bos_token"), own.tokenizer_class)
    for messages in PROBES:
        pieces = prompts.pieces_of(template, messages, bos, own.tokens.get("eos_token"))
        wanted = [index for piece in pieces for index in encode(piece.text)]
        got = encode(own.render(messages))
        if got != wanted:
            what = "the chat template gives other token ids than the prompt template"
            yield Fault("merge", what, str(wanted[:20]), str(got[:20]))
            return


def _conversations() -> Iterator[list[Message]]:
    """Give conversations of one turn and several, with a system message and without, whole and up to the answer."""
    for system in (None, " Be kind.\n"):
        for count in range(1, len(_TURNS) + 1):
            whole = conversation(_TURNS[:count], system)
            yield whole
            yield whole[:-1]


def _end_faults(merged: Path, base: Path, template: Mapping[str, Any]) -> Iterator[Fault]:
    """Give a fault where generation does not end at the base's own ends and at the template's."""
    own = read_chat_template(merged)
    words = {*template["stop_words"], *([] if template["suffix_as_eos"] else [own.tokens.get("eos_token", "")])}
    wanted = _ids(
        json_object(base / "generation_config.json").get("eos_token_id", read_config(base).get("eos_token_id"))
    )
    for token in json_object(merged / "tokenizer.json").get("added_tokens", []):
        if token["content"] in words:
            wanted.add(token["id"])
    got = _ids(json_object(merged / "generation_config.json").get("eos_token_id"))
    if got != wanted:
        what = "generation_config.json: eos_token_id is not the base's with the template's stop words"
        yield Fault("merge", what, str(sorted(wanted)), str(sorted(got)))


def _ids(told: Any) -> set[int]:
    return set(told if isinstance(told, list) else [] if told is None else [told])


def _around(wanted: str, got: str) -> tuple[str, str]:
    """Give what both say from shortly before they part."""
    pairs = enumerate(zip(wanted, got, strict=False))
    at = next((index for index, (a, b) in pairs if a != b), min(len(wanted), len(got)))
    few = slice(max(0, at - 10), at + 20)
    return repr(wanted[few]), repr(got[few])
