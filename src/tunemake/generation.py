"""Greedy answers of a model folder: batched, left-padded, ended by the template's own stop words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tunemake import prompts
from tunemake.contracts import Answer, Message
from tunemake.cures import install_cures

_BATCH = 16


class Answers:
    """A model that answers; imports torch.

    model, tokenizer: transformers' own. template: the prompt template. batch: conversations answered at once.
    """

    def __init__(self, model: Any, tokenizer: Any, template: Mapping[str, Any], *, batch: int = _BATCH) -> None:
        self.model, self.tokenizer, self.template, self._batch_size = model, tokenizer, template, batch

    @classmethod
    def load(cls, folder: Path, template: Mapping[str, Any], *, trust_remote_code: bool) -> Answers:
        """Load a Hugging Face model folder: on a CPU in float32, on a GPU in the folder's own type."""
        install_cures()
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        cuda = torch.cuda.is_available()
        model = AutoModelForCausalLM.from_pretrained(
            folder, torch_dtype="auto" if cuda else torch.float32, trust_remote_code=trust_remote_code
        ).to("cuda" if cuda else "cpu")
        model.eval()
        return cls(model, AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code), template)

    def of(self, conversations: Iterable[Sequence[Message]], max_new_tokens: int) -> Iterator[Answer]:
        """Give the answer to each conversation, in order, a batch at a time."""
        for ids in self.generated(conversations, max_new_tokens):
            yield self.answer_of(ids)

    def generated(self, conversations: Iterable[Sequence[Message]], max_new_tokens: int) -> Iterator[list[int]]:
        """Give the token ids of each answer, the stop token that ended it included."""
        waiting = iter(conversations)
        while batch := list(islice(waiting, self._batch_size)):
            yield from self._batch(batch, max_new_tokens)

    def ids_of(self, messages: Sequence[Message]) -> list[int]:
        """Give the token ids of a conversation, as training would."""
        return prompts.ids_of(self.template, messages, self.tokenizer)

    def stop_ids(self) -> list[int]:
        """Give the ids that end an answer: end of sequence, and stop words that are one token."""
        words = [self._encoded(word) for word in self.template["stop_words"]]
        ids = {self.tokenizer.eos_token_id, *(word[0] for word in words if len(word) == 1)}
        return sorted(stop for stop in ids if stop is not None)

    def answer_of(self, ids: Sequence[int]) -> Answer:
        """Give the answer that token ids say, without its end."""
        text = whole = self.tokenizer.decode(ids, skip_special_tokens=True)
        for word in self.template["stop_words"]:
            text = text.split(word, 1)[0]
        finished = text != whole or not set(self.stop_ids()).isdisjoint(ids)
        # A character of several tokens may have been cut in the middle.
        return Answer(text.strip() if finished else text.rstrip("\ufffd").strip(), finished)

    def _batch(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> list[list[int]]:
        import torch

        rows = [self.ids_of(messages) for messages in conversations]
        stops = self.stop_ids()
        # What fills a row is hidden by the mask, so any id will do.
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else (stops or [0])[0]
        width, device = max(map(len, rows)), self.model.device
        given = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        with torch.no_grad():
            made = self.model.generate(
                input_ids=given, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
                temperature=None, top_p=None, top_k=None, eos_token_id=stops, pad_token_id=pad,
            )  # fmt: skip
        return [self._until_word(_until(row, stops)) for row in made[:, width:].tolist()]

    def _until_word(self, ids: list[int]) -> list[int]:
        """Cut an answer's ids after a stop word of several tokens, which does not stop the generation."""
        words = [word for word in self.template["stop_words"] if len(self._encoded(word)) > 1]
        if not any(word in self.tokenizer.decode(ids) for word in words):
            return ids
        first = 1
        while not any(word in self.tokenizer.decode(ids[:first]) for word in words):
            first += 1
        return ids[:first]

    def _encoded(self, word: str) -> list[int]:
        return list(self.tokenizer.encode(word, add_special_tokens=False))


def _until(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Cut a row after its first stop token; what follows it fills the batch."""
    ends = [index for index, one in enumerate(ids) if one in stops]
    return ids[: ends[0] + 1] if ends else ids
