"""Token ids to text as they come: whole characters only, and nothing of a stop word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CUT = "\ufffd"  # what a decoder gives for the first bytes of a character
_LONGEST = 4  # tokens that a character may be cut into, one a byte


class Speech:
    """The text of one answer.

    tokenizer: one of transformers'. stops: texts that end the answer and are no part of it. stopped: one has come.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        # Tokens whose text is told stay for a while: what a token says may hang on the one before it.
        self._window: list[int] = []
        self._told = 0
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Give the text that is certain with one more token; empty where a character or a stop word may be open."""
        self._window.append(token)
        text = self._decoded(self._window)
        if text.endswith(_CUT) and len(self._window) - self._told < _LONGEST:
            return ""
        new = text[len(self._decoded(self._window[: self._told])) :]
        self._window, self._told = self._window[self._told :], len(self._window) - self._told
        return self._without_stop(new)

    def end(self) -> str:
        """Give what was held back, as nothing more comes."""
        if self.stopped:
            return ""
        text = self._decoded(self._window)[len(self._decoded(self._window[: self._told])) :]
        self._window, self._told = [], 0
        return self._without_stop(text.rstrip(_CUT)) + self._held

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _without_stop(self, new: str) -> str:
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        open_ = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - open_ :]
        return text[: len(text) - open_]


def _overlap(text: str, stop: str) -> int:
    """Give how many characters at the end of a text may be the beginning of a stop word."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
