"""One request to the generation thread: what is asked, how far its answer is, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tunemake.serving.rows import Row
from tunemake.serving.sampling import Sampler, Wish
from tunemake.serving.speech import Speech

Finish = Literal["stop", "length", "timeout", "failed", "closed"]
_AHEAD = 64  # tokens of an answer that there must be room for before it begins or goes on


class Told(NamedTuple):
    """What is new of an answer. text: more of it. finish: why it ended, None while it goes on."""

    text: str
    finish: Finish | None


@dataclass(eq=False)
class Work:
    """One request. longest: tokens its answer may have. tell: called from the thread with each Told, in order.

    stop_ids: tokens that end it. made: tokens of the answer so far, the one that ended it included. gone: nobody
    listens any more.
    """

    prompt: Sequence[int]
    wish: Wish
    longest: int
    stop_ids: frozenset[int]
    speech: Speech
    tell: Callable[[Told], None]
    adapter: str | None = None
    made: int = 0
    gone: bool = False
    began: float = field(default_factory=time.monotonic)
    row: Row | None = None

    @property
    def room(self) -> int:
        """Tokens whose keys it needs soon; all that it might need one day few answers ever have."""
        return len(self.prompt) + min(self.made + _AHEAD, self.longest)

    def as_row(self) -> Row:
        """Give its row: the same one again, where it was worked on already."""
        if self.row is None:
            self.row = Row(self.prompt, Sampler(self.wish, self.prompt), self.adapter)
        return self.row
