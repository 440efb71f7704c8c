"""Writes docs/reference/ from schemas, plugins and the command line: python docs/generate.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tunemake import arguments
from tunemake.commands.options import options_of
from tunemake.contracts import Message
from tunemake.digests import Digests
from tunemake.plugin import DATASETS, PROBES, PROMPTS
from tunemake.plugins import Plugins
from tunemake.prompts import text_of
from tunemake.schema import decided, load_schema, value_classes, with_defaults

FOLDER = Path(__file__).parent / "reference"
_NOTE = "<!-- made by `python docs/generate.py`; changes belong in {} -->"
_EXAMPLE: Sequence[Message] = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Who are you?"},
)
_NEEDS = {
    "questions": "prompts", "references": "a reference for each", "base": "the base model's answers",
    "divergence": "the base model's probabilities", "held_out": "held-out samples",
}  # fmt: skip
_DECIDES = {"weights": "the weights", "run": "how it runs", "later": "a later stage"}


def pages() -> dict[str, str]:
    """Give the text of each page, by file name."""
    plugins = Plugins(FOLDER, [], Digests(FOLDER / "digests.json"))
    made = {
        "project.md": ("schemas/project.schema.json", _project()),
        "generators.md": ("the generators' own `parameters`", _generators(plugins)),
        "probes.md": ("the probes' own `parameters`", _probes(plugins)),
        "prompts.md": ("schemas/ and the prompt templates", _prompts(plugins)),
        "commands.md": ("src/tunemake/arguments.py", _commands()),
    }
    return {name: "\n".join([_NOTE.format(source), *lines]).rstrip() + "\n" for name, (source, lines) in made.items()}


def _project() -> Iterator[str]:
    shape = load_schema("project.schema.json")
    yield "# project.toml\n"
    yield "Every key that a project may have. A key that is not listed here is an error, and the message proposes a"
    yield "close one. `schemas/project.schema.json` says the same: an editor that knows `#:schema` completes by it.\n"
    yield "The column *decides* says what a change of the value does. **The weights**: what was trained is stale, and"
    yield "is trained anew. **How it runs**: nothing is made anew; the next training runs that way, or one that a kill"
    yield "left goes on that way. **A later stage**: only what comes after the training is made anew.\n"
    lists = {key: entry for key, entry in shape["properties"].items() if entry["type"] == "array"}
    yield "## At the top, above the first table\n"
    yield from _table({"properties": lists}, decides=True)
    for key, entry in shape["properties"].items():
        if key not in lists:
            yield from _section(key, entry)
    yield "## Samples\n"
    yield "What a dataset gives, line by line, in `build/default/datasets/NAME/samples.jsonl`:\n"
    yield from _table(load_schema("sample.schema.json"))
    yield "The turns are of user and assistant in alternation, after a system message or none; the last is the"
    yield "assistant's."


def _section(key: str, entry: Mapping[str, Any]) -> Iterator[str]:
    others = entry.get("additionalProperties")
    named = isinstance(others, Mapping) and others.get("type") == "object"
    yield f"## [{key}{'.NAME' if named else ''}]\n"
    if description := entry.get("description"):
        yield f"{description[0].upper()}{description[1:]}.\n"
    yield from _table({**(others if named else entry), "x-decides": decided(entry)}, decides=True)


def _generators(plugins: Plugins) -> Iterator[str]:
    yield "# Dataset generators\n"
    yield "What ships. `tunemake plugins` lists these and all others that are installed; [plugins.md](../plugins.md)"
    yield "says how to write one.\n"
    for name in _ours(plugins, DATASETS):
        made = plugins.generator(name)
        yield f"## {name}\n"
        yield f"{made.summary[0].upper()}{made.summary[1:]}.\n"
        if "base" in getattr(made, "needs", ()):
            yield "It asks the base model.\n"
        if "x-message" in made.parameters:
            yield f"Its parameters: {made.parameters['x-message']}.\n"
        yield from _table(made.parameters)


def _probes(plugins: Plugins) -> Iterator[str]:
    yield "# Probes\n"
    yield "What ships. `tunemake plugins` lists these and all others that are installed; [probes.md](../probes.md) says"
    yield "how to choose, and how to write one.\n"
    for name in _ours(plugins, PROBES):
        made = plugins.probe(name)
        yield f"## {name}\n"
        yield f"{made.summary[0].upper()}{made.summary[1:]}.\n"
        needed = ", ".join(_NEEDS[need] for need in made.needs) or "the model alone"
        yield f"Its value: {made.unit}. It needs {needed}.\n"
        yield from _table(made.parameters)


def _prompts(plugins: Plugins) -> Iterator[str]:
    yield "# Prompt templates\n"
    yield "What a prompt template says:\n"
    shape = load_schema("prompt_template.schema.json")
    yield from _table(shape)
    yield "## Those that ship\n"
    yield "The text is that of a system message (Be kind.), a question, its answer and a second question. ⟨bos⟩ marks"
    yield "the tokenizer's beginning-of-sequence token where the template asks for it and the tokenizer has one, ⟨eos⟩"
    yield "its end-of-sequence token.\n"
    for name in _ours(plugins, PROMPTS):
        template = with_defaults(plugins.template_as_written(name), shape)
        yield f"### {name}\n"
        yield template["summary"] + "\n"
        if not template.get("from_tokenizer"):
            yield "```text"
            yield text_of(template, _EXAMPLE, bos="⟨bos⟩" if template["bos"] else None, eos="⟨eos⟩")
            yield "```\n"


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "`doit` builds; `tunemake` does the rest. Exit codes: 0 done, 1 a stage failed, 2 the input is wrong, 3 a bug"
    yield "of tunemake's, 130 and 143 interrupted.\n"
    parser = arguments.parser()
    yield from _help("tunemake", parser)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    for name, command in commands.choices.items():
        yield from _help(f"tunemake {name}", command)


def _help(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {name}\n"
    yield "```text"
    parser.formatter_class = partial(argparse.HelpFormatter, width=100)  # else as wide as the terminal is
    yield parser.format_help().rstrip()
    yield "```\n"


def _ours(plugins: Plugins, group: str) -> list[str]:
    own = [
        name
        for name in plugins.names(group)
        if any(one.distribution == "tunemake" for one in plugins.all_of(group, name))
    ]
    return [f"tunemake:{name}" if len(plugins.all_of(group, name)) > 1 else name for name in own]


def _table(schema: Mapping[str, Any], *, decides: bool = False) -> Iterator[str]:
    """Give the lines of a table of options. decides: say of each what it decides."""
    options = list(options_of(schema))
    if not options:
        yield ""
        return
    classes = value_classes(schema) if decides else {}
    yield "| key | type | default | decides | |" if decides else "| key | type | default | |"
    yield "| --- | --- | --- | --- | --- |" if decides else "| --- | --- | --- | --- |"
    for option in options:
        default = option.default if option.default in {"", "(required)"} else f"`{option.default}`"
        own = [_DECIDES[classes[option.name]]] if decides else []
        cells = [f"`{option.name}`", option.type, default.strip("()"), *own, option.description]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def main() -> int:
    """Write every page that is not as it should be; say which."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"{path.name} written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
