"""Scaffolds: names that new things may have, their files rendered from templates/scaffolds/, and written whole.

Nothing that is there is ever overwritten.
"""

from __future__ import annotations

import json
import keyword
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemake import shelves
from tunemake.faults import Fault, InputError, did_you_mean

_SHELF = "scaffolds"
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# A part of one letter could not be told from its neighbour in the class's name: a_b and ab are both AB's.
_PLUGIN = re.compile(r"([a-z][a-z0-9]+_)*[a-z][a-z0-9]*")
_LONGEST = 64

Content = str | Path  # a file's text, or the file that is copied


def check_project_name(name: str) -> None:
    """Raise InputError where a project's folder cannot have this name, and propose one."""
    if not _PROJECT.fullmatch(name) or len(name) > _LONGEST:
        clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:_LONGEST]
        _refuse(name, "letters, digits, dot, dash and underscore", clean)


def check_plugin_name(name: str) -> None:
    """Raise InputError where no dataset generator or prompt template can have this name, and propose one."""
    if not _PLUGIN.fullmatch(name) or len(name) > _LONGEST:
        words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
        clean = "_".join(words)
        _refuse(name, "words of two or more small letters and digits, with _ between them, such as my_data", clean)
    if keyword.iskeyword(name):
        raise InputError(Fault(_told(name), "a word of Python's own", next_step="choose another name"))


def check_template_name(name: str, taken: Mapping[str, Any]) -> None:
    """Raise InputError where no training template can have this name. taken: the names that there are."""
    if not _PROJECT.fullmatch(name) or len(name) > _LONGEST:
        _refuse(name, "letters, digits, dot, dash and underscore", re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._"))
    if name in taken or name == "base":
        raise InputError(Fault(_told(name), "a training template of this name is there", next_step="choose another"))


def _refuse(name: str, expected: str, proposed: str) -> None:
    step = f'did you mean "{proposed}"?' if proposed and proposed != name else None
    raise InputError(Fault(_told(name), "no such name can be given", expected, next_step=step))


def _told(name: str) -> str:
    return name or '""'


def one_of(where: str, value: str, known: Mapping[str, Any]) -> str:
    """Give a value that is one of the known; raises InputError naming them and a close one."""
    if value not in known:
        step = did_you_mean(value, known)
        raise InputError(Fault(where, "unknown", " or ".join(known), json.dumps(value, ensure_ascii=False), step))
    return value


def class_name(name: str) -> str:
    """Give the name of the class whose name in snake_case is this one."""
    return "".join(word.capitalize() for word in name.split("_"))


def shipped(name: str) -> Path:
    """Give a scaffold's file that is copied as it is."""
    return shelves.find("templates", f"{_SHELF}/{name}")


def rendered(name: str, values: Mapping[str, Any]) -> str:
    """Render a scaffold's template, such as plugin/dataset.py.jinja, in Jinja's sandbox; every name is defined."""
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # what is written is TOML and Python, not HTML; values go through `toml` or are names
    )  # fmt: skip
    environment.filters["toml"] = toml
    return environment.from_string(shipped(name).read_text("utf-8")).render(values)


def toml(value: Any) -> str:
    """Write a value as TOML does on one line."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's too


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)


def write_folder(folder: Path, files: Mapping[str, Content]) -> None:
    """Make a folder with files, whole or not at all; raises InputError where there is one with anything in it."""
    check_free(folder)
    draft = folder.with_name(f".{folder.name}.new")
    try:
        draft.mkdir()
        try:
            for name, content in files.items():
                _write(draft / name, content)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft)
            raise
    except OSError as error:
        raise InputError(Fault(folder.name, f"cannot be written: {error.strerror}", next_step=_step(error))) from error


def _step(error: OSError) -> str | None:
    return f"remove {error.filename}" if isinstance(error, FileExistsError) else None


def check_free(folder: Path) -> None:
    """Raise InputError where a folder cannot be made because something is in its place."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(Fault(folder.name, "is there already", next_step="choose another name"))
    if folder.is_dir() and any(folder.iterdir()):
        step = "choose another name; nothing was changed"
        raise InputError(Fault(folder.name, "the folder is there already, and is not empty", next_step=step))


def write_new(file: Path, content: Content, told: str) -> None:
    """Write a file that is not there yet; raises InputError where it is. told: its name for messages."""
    if file.exists() or file.is_symlink():
        raise InputError(Fault(told, "the file is there already", next_step="choose another name"))
    try:
        _write(file, content)
    except OSError as error:
        raise InputError(Fault(told, f"cannot be written: {error.strerror}")) from error


def _write(file: Path, content: Content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, file)
    else:
        with file.open("x", encoding="utf-8", newline="") as opened:
            opened.write(content)
