"""How the next token of one answer is chosen: penalties, temperature, nucleus, and random numbers of its own."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_COLDEST = 1e-5  # below, a logit divided by the temperature may be infinite; the likeliest is certain long before


@dataclass(frozen=True)
class Wish:
    """What a request asks of the choice of tokens.

    temperature: 0 takes the likeliest. top_p: share of probability to choose from, above 0. seed: None for any.
    frequency_penalty, presence_penalty: subtracted from the logit of what the answer has, for each time and once
    (OpenAI's API reference, "Create chat completion"). repetition_penalty: divides the positive logits and multiplies
    the negative ones of what prompt or answer has (Keskar et al. 2019, arXiv:1909.05858, section 4.1).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0


class Sampler:
    """Chooses the tokens of one answer; imports torch. Nothing of it is shared, so no other request changes a choice.

    prompt: the token ids that are asked.
    """

    def __init__(self, wish: Wish, prompt: Sequence[int]) -> None:
        import torch

        self._wish = wish
        self._seen: Counter[int] = Counter()
        self._prompt = sorted(set(prompt))
        self._random = torch.Generator()  # on the CPU: the same numbers whatever the model runs on
        self._random.manual_seed(secrets.randbits(63) if wish.seed is None else wish.seed)

    def next(self, logits: Any) -> int:
        """Give the next token's id by a vector of logits."""
        logits = self._penalised(logits.float())
        chosen = int(logits.argmax()) if self._wish.temperature < _COLDEST else self._drawn(logits)
        self._seen[chosen] += 1
        return chosen

    def _penalised(self, logits: Any) -> Any:
        import torch

        wish = self._wish
        if wish.repetition_penalty != 1:
            ids = torch.tensor(sorted({*self._prompt, *self._seen}), device=logits.device, dtype=torch.long)
            values = logits[ids]
            scaled = torch.where(values > 0, values / wish.repetition_penalty, values * wish.repetition_penalty)
            logits = logits.index_copy(0, ids, scaled)
        if self._seen and (wish.frequency_penalty or wish.presence_penalty):
            ids = torch.tensor(list(self._seen), device=logits.device)
            counts = torch.tensor(list(self._seen.values()), device=logits.device, dtype=logits.dtype)
            less = wish.frequency_penalty * counts + wish.presence_penalty
            logits = logits.index_copy(0, ids, logits[ids] - less)
        return logits

    def _drawn(self, logits: Any) -> int:
        """Draw one by the inverse of the distribution of the likeliest that together have top_p."""
        import torch

        ordered, ids = (logits / self._wish.temperature).sort(descending=True, stable=True)
        sums = ordered.softmax(0).cumsum(0)
        # The one with which the sum reaches top_p belongs to them.
        kept = min(int((sums < self._wish.top_p).sum()) + 1, len(sums))
        point = torch.rand((), generator=self._random).item() * float(sums[kept - 1])
        return int(ids[min(int((sums[:kept] <= point).sum()), kept - 1)])
