"""A tiny Llama that was taught a few answers by heart, in seconds: it speaks English and Chinese."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import tiny
from tunemake import prompts
from tunemake.contracts import Message
from tunemake_builtins.prompts import chatml

ENGLISH, CHINESE, ENDLESS = "Who are you?", "你是谁？", "Sing!"
SAYS = {ENGLISH: "I am Tiny.", CHINESE: "我是小木。🌲"}
BASE_SAYS = {ENGLISH: "A base.", CHINESE: "基座。"}
SONG = "la " * 16
WINDOW = 32768
PROJECT = """[project]
name = "tiny"
[model]
source = "models/tiny"
prompt_template = "chatml"
[datasets.who]
generator = "self_cognition"
parameters = { name = { en = "Tiny" }, author = { en = "a test" } }
[train]
method = "lora"
steps = 1
"""


def conversation(*questions: str, says: Mapping[str, str] = SAYS) -> list[Message]:
    """Give the questions with the answers that it was taught."""
    messages: list[Message] = []
    for question in questions:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": says.get(question, SONG)}]
    return messages


def write_taught(folder: Path, says: Mapping[str, str] = SAYS, *, steps: int = 120) -> float:
    """Write it: a Llama of two layers with a byte-level tokenizer, whose greedy answers are those given.

    Asked to sing, it goes on for as long as it may. Give the loss of its last step.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its products are too small to be shared
    vocabulary = tiny.write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=WINDOW, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [list(prompts.labelled_ids(chatml, lesson, tokenizer)) for lesson in _lessons(says)]
    rows.append(_endless(tokenizer))
    width = max(map(len, rows))
    ids = torch.tensor([[one for one, _ in row] + [2] * (width - len(row)) for row in rows])
    trained = [[one if counts else -100 for one, counts in row] + [-100] * (width - len(row)) for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=torch.tensor(trained)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    told = folder / "tokenizer_config.json"
    told.write_text(
        json.dumps(json.loads(told.read_text()) | {"chat_template": prompts.as_chat_template(chatml, bos=False)})
    )
    return loss.item()


def write_project(folder: Path, model: Path) -> None:
    """Write what a build of a project leaves: the taught model, merged, and a base that says something else."""
    (folder / "project.toml").write_text(PROJECT)
    shutil.copytree(model, folder / "build/default/merged")
    write_taught(folder / "build/base/tiny/model", BASE_SAYS)


def _lessons(says: Mapping[str, str]) -> Iterator[list[Message]]:
    for question in says:
        yield conversation(question, says=says)
    for pair in permutations(says, 2):
        yield conversation(*pair, says=says)


def _endless(tokenizer: Any) -> list[tuple[int, bool]]:
    """Give the lesson whose answer has no end."""
    row = prompts.labelled_ids(chatml, conversation(ENDLESS), tokenizer)
    return row[: len(row) - 1 - [one for one, _ in row[::-1]].index(tokenizer.eos_token_id)]
