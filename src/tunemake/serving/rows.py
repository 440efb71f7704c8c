"""The answers that one loaded model makes together: a row each, one forward a step, rows that come and go between.

Keys and values of earlier tokens are kept on the model's device, left-padded to the longest row. A mask hides the
padding and every row counts its own positions, so that a row does not hang on who else is there.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from tunemake.faults import Fault, ModelError
from tunemake.serving.sampling import Sampler, Wish

_CHUNK = 512  # tokens of a prompt in one forward: what that needs at once stays bounded
_KEYS_VALUES = 2  # of each layer


class Row:
    """One answer that is being made.

    prompt: token ids that are asked. sampler: chooses. adapter: name of the adapter to answer through, or None.
    ids: prompt and answer so far; a row that left may join again, and goes on where it was.
    """

    def __init__(self, prompt: Sequence[int], sampler: Sampler, adapter: str | None = None) -> None:
        self.ids, self.sampler, self.adapter = list(prompt), sampler, adapter

    @property
    def last(self) -> int:
        """The newest token."""
        return self.ids[-1]

    @property
    def length(self) -> int:
        """Tokens whose keys are kept: the newest was not read yet."""
        return len(self.ids) - 1


class Rows:
    """A loaded model with the rows that it works on; imports torch.

    model: one of transformers', or PEFT's, of whose adapters each row names one. adapted: it is PEFT's.
    Raises ModelError for a model whose keys and values are kept in a form that cannot be joined.
    """

    def __init__(self, model: Any, *, adapted: bool = False) -> None:
        self._model, self._adapted = model, adapted
        plain = model.get_base_model() if self._adapted else model
        names = inspect.signature(plain.forward).parameters
        # Logits of a whole prompt would be many times its keys.
        self._last_only = {"num_logits_to_keep": 1} if "num_logits_to_keep" in names else {}
        self.here: list[Row] = []
        self._past: Any = None
        self._mask: Any = None
        self._probe()

    def add(self, rows: Sequence[Row]) -> None:
        """Read what rows have so far, choose one more token of each, and let them join."""
        past, mask = self._read(rows)
        if self.here:
            past, mask = self._joined(past, mask)
        self.here = [*self.here, *rows]
        self._past, self._mask = past, mask

    def step(self) -> None:
        """Choose one more token of every row."""
        import torch

        device = self._mask.device
        ids = torch.tensor([[row.last] for row in self.here], device=device)
        places = torch.tensor([[row.length] for row in self.here], device=device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.here), 1)], dim=1)
        logits, self._past = self._forward(self.here, ids, self._mask, places, self._past)
        _choose(self.here, logits)

    def keep(self, rows: Sequence[Row]) -> None:
        """Let the other rows leave; what they held is freed."""
        if len(rows) == len(self.here):
            return
        kept = [index for index, row in enumerate(self.here) if row in rows]
        self.here = [self.here[index] for index in kept]
        if not kept:
            self._past = self._mask = None
            return
        padding = self._mask.shape[1] - max(row.length for row in self.here)
        self._mask = self._mask[kept, padding:]
        self._past = self._wrapped([(k[kept, :, padding:], v[kept, :, padding:]) for k, v in self._pairs(self._past)])

    def _read(self, rows: Sequence[Row]) -> tuple[Any, Any]:
        import torch

        width, device = max(len(row.ids) for row in rows), self._model.device
        short = [width - len(row.ids) for row in rows]
        ids = torch.tensor(
            [[0] * n + row.ids for n, row in zip(short, rows, strict=True)], device=device
        )  # any id will do where the mask hides it
        mask = torch.tensor([[0] * n + [1] * (width - n) for n in short], device=device)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        past = logits = None
        for at in range(0, width, _CHUNK):
            part = slice(at, min(at + _CHUNK, width))
            logits, past = self._forward(rows, ids[:, part], mask[:, : part.stop], places[:, part], past)
        _choose(rows, logits)
        return past, mask

    def _forward(self, rows: Sequence[Row], ids: Any, mask: Any, places: Any, past: Any) -> tuple[Any, Any]:
        import torch

        through = {"adapter_names": [row.adapter or "__base__" for row in rows]} if self._adapted else {}
        with torch.inference_mode():
            said = self._model(
                input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=past, use_cache=True,
                **self._last_only, **through,
            )  # fmt: skip
        return said.logits[:, -1], said.past_key_values

    def _joined(self, past: Any, mask: Any) -> tuple[Any, Any]:
        import torch
        from torch.nn.functional import pad

        longest = max(self._mask.shape[1], mask.shape[1])

        def widened(tensor: Any, at: int, after: Sequence[int] = ()) -> Any:
            return pad(tensor, (*after, longest - tensor.shape[at], 0))

        pairs = [
            tuple(torch.cat([widened(old, 2, (0, 0)), widened(new, 2, (0, 0))]) for old, new in zip(*both, strict=True))
            for both in zip(self._pairs(self._past), self._pairs(past), strict=True)
        ]
        return self._wrapped(pairs), torch.cat([widened(self._mask, 1), widened(mask, 1)])

    def _pairs(self, past: Any) -> Any:
        return past.to_legacy_cache() if self._is_cache else past

    def _wrapped(self, pairs: Any) -> Any:
        from transformers import DynamicCache

        return DynamicCache.from_legacy_cache(pairs) if self._is_cache else tuple(pairs)

    def _probe(self) -> None:
        """Look at what the model keeps of one token."""
        import torch
        from transformers import DynamicCache

        one = torch.ones(1, 1, dtype=torch.long, device=self._model.device)
        _, past = self._forward([Row([1], Sampler(Wish(), [1]))], one, one, one - 1, None)
        self._is_cache = type(past) is DynamicCache
        if self._is_cache or (isinstance(past, tuple) and all(len(pair) == _KEYS_VALUES for pair in past)):
            return
        raise ModelError(
            Fault(
                type(self._model).__name__, "cannot answer several at once: of its cache no rows can be joined",
                got=type(past).__name__, next_step="serve it with --engine vllm or --engine lmdeploy",
            )
        )  # fmt: skip


def _choose(rows: Sequence[Row], logits: Any) -> None:
    for row, scores in zip(rows, logits, strict=True):
        row.ids.append(row.sampler.next(scores))
