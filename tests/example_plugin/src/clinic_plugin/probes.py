"""Whether a model tells hours where it is asked for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunemake.contracts import Examined, Score


class TellsHours:
    """A probe: the share of answers in which hours such as 8-12 stand."""

    summary = "share of answers that tell hours"
    version = "1"
    unit = "share of answers"
    needs: Sequence[str] = ("questions",)
    parameters: Mapping[str, Any] = {"type": "object", "additionalProperties": False}

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:  # noqa: ARG002 - it has none
        """Give the share."""
        parts = [float(re.search(r"\d+-\d+", answer.text) is not None) for answer in model.answers()]
        return Score(sum(parts) / len(parts), parts)
