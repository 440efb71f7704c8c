"""tunemake chat: talk to a model folder that the project built, at a terminal or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tunemake.contracts import Message
from tunemake.faults import Fault, InputError
from tunemake.model_choice import Models


def chat(root: Path, folder: Path | None, max_new_tokens: int) -> Iterator[str]:
    """Give the answer to each line of standard input; `/reset` begins a new conversation.

    folder: the model, by default the project's merged one. The prompt template and its stop words are the project's.
    """
    choice = Models(root).choose(None if folder is None else str(folder))
    model = choice.load()
    messages: list[Message] = []
    for line in _lines():
        if line == "/reset":
            messages = []
            continue
        messages.append({"role": "user", "content": line})
        answer = next(model.of([messages], max_new_tokens)).text
        messages.append({"role": "assistant", "content": answer})
        yield answer


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("you: " if sys.stdin.isatty() else "")
            line.encode()  # in some locales what cannot be decoded comes as surrogates
        except EOFError:
            return
        except UnicodeError:
            raise InputError(Fault("standard input", "not UTF-8")) from None
        if line.strip():
            yield line.strip()
