"""The tokenizer that a training encodes by: transformers' own, with the beginning-of-sequence token once or not at all.

Imports no torch, mmengine or XTuner.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tunemake.prompts import bos_of, from_xtuner


def load_tokenizer(
    pretrained_model_name_or_path: str, prompt_template: dict[str, Any], **options: Any
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer such that XTuner puts the beginning-of-sequence token once, or not at all.

    XTuner puts it before every conversation. Where the template's own text begins with it (ChatML with a tokenizer
    whose bos is <|im_start|>) it would stand there twice, and where the tokenizer has none XTuner fails.
    """
    tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **options)
    kind = type(tokenizer)
    if bos_of(from_xtuner(prompt_template), tokenizer.bos_token, kind.__name__) is None:
        tokenizer.__class__ = type(kind.__name__, (kind,), {"bos_token_id": property(lambda _self: [])})
    return tokenizer
