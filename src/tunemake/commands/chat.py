"""tunemake chat: talk to a model folder that the project built, at a terminal or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tunemake.chat_templates import resolved
from tunemake.contracts import Message
from tunemake.digests import DIGESTS, Digests
from tunemake.engines import xtuner
from tunemake.faults import Fault, InputError
from tunemake.generation import Answers
from tunemake.graph import base_name
from tunemake.plugins import Plugins
from tunemake.project import load_project


def chat(root: Path, folder: Path | None, max_new_tokens: int) -> Iterator[str]:
    """Give the answer to each line of standard input; `/reset` begins a new conversation.

    folder: the model, by default the project's merged one. The prompt template and its stop words are the project's.
    """
    project = load_project(root)
    # One of XTuner's own configs trains with a prompt template of its own, unless another is declared.
    project = project.with_values(xtuner.own_values(xtuner.config_template(project.train)))
    plugins = Plugins(root, project.plugins, Digests(root / DIGESTS))
    template = plugins.prompt_template(project.model["prompt_template"])
    chosen = folder or root / "build" / project.variant.name / "merged"
    if not (chosen / "config.json").exists():
        raise InputError(Fault(str(chosen), "no model here", next_step="run doit, or name a model folder"))
    base = root / "build" / "base" / base_name(project.model["source"]) / "model"
    template = resolved(template, base if base.exists() else chosen)
    model = Answers.load(chosen, template, trust_remote_code=project.model["trust_remote_code"])
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
