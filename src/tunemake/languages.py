"""The language that a text is in, by the letters that follow each other in it."""

from __future__ import annotations

from functools import cache
from typing import Any

UNSURE = "und"  # ISO 639-2: undetermined
LEAST = 0.5  # confidence; single short sentences mostly reach it, numbers, code and two words mostly do not
_MOST = 300  # characters looked at; more takes longer and says the same


def language_of(text: str) -> str:
    """Give a text's language by its ISO 639 code, as py3langid knows 139, or UNSURE where it is not sure enough."""
    return str(_identifier().classify(text[:_MOST])[0])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=LEAST)
