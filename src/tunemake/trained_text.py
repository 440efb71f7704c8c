"""A conversation as XTuner trains it: its pieces with their tokens, which of them the loss counts, where it is cut.

By the base model's tokenizer.json, without transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from tunemake.chat_templates import ChatTemplate, read_chat_template, resolved
from tunemake.contracts import Message, Sample
from tunemake.faults import Fault, ModelError
from tunemake.prompts import Piece, bos_of, pieces_of

TOKENIZER = "tokenizer.json"
_CHUNK = 1000


class Lengths(NamedTuple):
    """A sample's tokens: all; those that the loss counts; those of these that lie within max_length."""

    tokens: int
    trained: int
    kept: int


class Part(NamedTuple):
    """A stretch of a sample's text. tokens: how many; cut: it lies beyond max_length."""

    text: str
    tokens: int
    trained: bool
    cut: bool


class TrainedTexts:
    """Gives samples as XTuner trains them.

    folder: the base model's. template: the prompt template, resolved here where it is the tokenizer's own. max_length:
    tokens, beyond which XTuner cuts. Raises ModelError where the folder has no tokenizer.json or it is broken.
    """

    def __init__(self, folder: Path, template: Mapping[str, Any], max_length: int) -> None:
        own = read_chat_template(folder)
        self.template, self.max_length = resolved(template, folder), max_length
        self._bos = bos_of(self.template, own.tokens.get("bos_token"), own.tokenizer_class)
        self._eos = own.tokens.get("eos_token")
        self._own = set(own.tokens.values())
        self._tokenizer = _tokenizer(folder / TOKENIZER)

    def lengths(self, samples: Iterable[Sample]) -> Iterator[Lengths]:
        """Give the lengths of samples in order; in a stream."""
        waiting = iter(samples)
        while chunk := list(islice(waiting, _CHUNK)):
            cut = [list(self._pieces(sample["messages"])) for sample in chunk]
            # Templates and data repeat themselves: each text is encoded once a chunk.
            texts = list({piece.text for pieces in cut for piece in pieces if not piece.token})
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            counts = dict(zip(texts, map(len, encoded), strict=True))
            yield from (self._lengths(pieces, counts) for pieces in cut)

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Give a conversation's text in parts, one after the other."""
        found: list[Part] = []
        at = 0
        for piece in self._pieces(messages):
            ends = [len(piece.text)] if piece.token else self._ends(piece.text)
            room = min(max(0, self.max_length - at), len(ends))
            border = ends[room - 1] if room else 0
            if room:
                found.append(Part(piece.text[:border], room, piece.trained, cut=False))
            if room < len(ends):
                found.append(Part(piece.text[border:], len(ends) - room, piece.trained, cut=True))
            at += len(ends)
        return found

    def special_tokens(self) -> set[str]:
        """Give the texts that the tokenizer reads as one special token wherever they stand.

        Those of tokenizer.json, and those that the model's other files name: transformers makes these special, too.
        """
        added = self._tokenizer.get_added_tokens_decoder().values()
        return {token.content for token in added if token.special} | self._own

    def _pieces(self, messages: Sequence[Message]) -> Iterator[Piece]:
        return (piece for piece in pieces_of(self.template, messages, self._bos, self._eos) if piece.text)

    def _lengths(self, pieces: list[Piece], counts: Mapping[str, int]) -> Lengths:
        at = trained = kept = 0
        for piece in pieces:
            count = 1 if piece.token else counts[piece.text]
            if piece.trained:
                trained += count
                kept += max(0, min(at + count, self.max_length) - at)
            at += count
        return Lengths(at, trained, kept)

    def _ends(self, text: str) -> list[int]:
        """Give, for each token of a text, where it ends in it; the last one ends with the text."""
        ends = [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]
        return [*ends[:-1], len(text)] if ends else []


class LightTokenizer:
    """A folder's tokenizer with the few methods of transformers' that a check of a prompt template asks for."""

    def __init__(self, own: ChatTemplate, tokenizer: Any) -> None:
        self._own, self._tokenizer = own, tokenizer
        self.bos_token, self.eos_token = own.tokens.get("bos_token"), own.tokens.get("eos_token")

    @classmethod
    def of(cls, folder: Path) -> LightTokenizer:
        """Read a folder's; its class has the name of transformers', by which XTuner decides. Raises ModelError."""
        own = read_chat_template(folder)
        named = type(own.tokenizer_class or cls.__name__, (cls,), {})
        return cast("LightTokenizer", named(own, _tokenizer(folder / TOKENIZER)))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Give the ids of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Give a token's id, or None."""
        return cast("int | None", self._tokenizer.token_to_id(token))

    def apply_chat_template(self, messages: Sequence[Message], *, chat_template: str, tokenize: bool) -> list[int]:
        """Give the ids of a conversation by a chat template."""
        assert tokenize
        text = ChatTemplate(chat_template, self._own.tokens, self._own.tokenizer_class).render(messages)
        return self.encode(text, add_special_tokens=False)


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ModelError(Fault("model.source", f"the base has no {TOKENIZER}, by which tokens are counted here"))
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(Fault(TOKENIZER, f"cannot be read: {error}")) from error
    made.no_truncation()  # transformers, by which XTuner encodes, ignores what the file says of these two
    made.no_padding()
    return made
