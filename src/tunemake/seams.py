"""Where the pieces meet that XTuner encodes one by one: what keeps the whole text's token ids the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tunemake import prompts
from tunemake.chat_templates import ChatTemplate, conversation, read_chat_template
from tunemake.contracts import Message

Encode = Callable[[str], list[int]]
_TURNS = [("How are you?", "Fine, thanks."), ("And who is there?", "Nobody."), ("Yes", "No")]
PROBES: tuple[list[Message], ...] = (conversation(_TURNS), conversation(_TURNS, "Be kind."))


def chat_template_for(template: Mapping[str, Any], folder: Path, encode: Encode) -> ChatTemplate:
    """Give the chat template of a model folder's tokenizer that says what a prompt template says.

    encode: text to token ids, with special tokens in the text and none added. The whole text gets the same ids as
    XTuner's pieces where that is possible; template_fit says where it is not.
    """
    own = read_chat_template(folder)
    bos, eos = prompts.bos_of(template, own.tokens.get("bos_token"), own.tokenizer_class), own.tokens.get("eos_token")
    wanted = [
        [index for piece in prompts.pieces_of(template, messages, bos, eos) for index in encode(piece.text)]
        for messages in PROBES
    ]
    plain = ChatTemplate(prompts.as_chat_template(template, bos=bos is not None), own.tokens, own.tokenizer_class)
    for spaces in sorted(product((False, True), repeat=4), key=sum):
        source = prompts.as_chat_template(template, bos=bos is not None, gaps=prompts.Gaps(*spaces))
        made = ChatTemplate(source, own.tokens, own.tokenizer_class)
        if [encode(made.render(messages)) for messages in PROBES] == wanted:
            return made
    return plain


def encoder(folder: Path, *, trust_remote_code: bool) -> Encode:
    """Give a model folder's tokenizer as a function; without transformers where tokenizer.json holds it."""
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        fast.no_truncation()  # transformers, by which XTuner encodes, ignores what the file says of these two
        fast.no_padding()
        return lambda text: list(fast.encode(text, add_special_tokens=False).ids)
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return lambda text: list(slow.encode(text, add_special_tokens=False))


def first_seam(trained: Sequence[int], asked: Sequence[int], tokens: Callable[[Sequence[int]], list[str]]) -> str:
    """Show where two lists of token ids part, as tokens. tokens: ids to tokens' texts."""
    at = next(
        (i for i, (a, b) in enumerate(zip(trained, asked, strict=False)) if a != b), min(len(trained), len(asked))
    )
    few = slice(max(0, at - 1), at + 3)
    return f"training sees {tokens(trained[few])}, whoever asks by the chat template sees {tokens(asked[few])}"
