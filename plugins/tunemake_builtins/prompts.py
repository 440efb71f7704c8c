"""Prompt templates beside XTuner's own. ChatML is OpenAI's markup, which Qwen, InternLM2 and SmolLM2 learnt."""

from __future__ import annotations

from tunemake.contracts import PromptTemplate


def _chatml(summary: str) -> PromptTemplate:
    return {
        "summary": summary,
        "system": "<|im_start|>system\n{system}<|im_end|>\n",
        "instruction": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "suffix": "<|im_end|>",
        "suffix_as_eos": True,
        "separator": "\n",
        "stop_words": ["<|im_end|>"],
    }


chatml = _chatml("ChatML, without a default system message")
smollm2 = _chatml("SmolLM2-Instruct: ChatML without the hub's default system message, which names another assistant")
from_tokenizer: PromptTemplate = {"summary": "the base model's own chat template", "from_tokenizer": True}
