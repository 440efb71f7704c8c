"""Jinja templates of training configs: the files that one is made of, and what it renders, with its faults placed.

A template lies at templates/xtuner/NAME.py.jinja, the project's own before the one that ships. What it extends,
includes and imports is named in it, so that every file it is made of is known without running it.
"""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tunemake import shelves
from tunemake.faults import Fault, InputError, did_you_mean
from tunemake.glance import look_at

if TYPE_CHECKING:
    import jinja2

_FOLDER, _ENDING = "xtuner", ".py.jinja"
_TAG = re.compile(r"\{%[-+]?\s*(extends|include|import|from)\s+([^%]*)")
_NAME = re.compile(r"""["']([^"']+)["']""")
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_PLACE = re.compile(r"\x00([^\x00]*):(\d+)\x00")


def template_names(project: Path | None) -> dict[str, bool]:
    """List the templates that may be chosen; True for a project's own."""
    found: dict[str, bool] = {}
    for folder in shelves.shelf_folders("templates", project):
        own = project is not None and folder.parent == project
        for path in sorted((folder / _FOLDER).glob(f"*{_ENDING}")):
            found.setdefault(path.name.removesuffix(_ENDING), own)
    return {name: own for name, own in found.items() if name != "base"}


def template_files(name: str, project: Path | None) -> list[str]:
    """List the files that a template is made of, under templates/: itself, and all that it extends or includes.

    Raises InputError where it is not there, is made of itself, or leaves it to a value what it is made of.
    """
    main = f"{_FOLDER}/{name}{_ENDING}"
    if not _is_there(main, project):
        known = template_names(project)
        step = did_you_mean(name, known) or f"there are {', '.join(sorted(known))}, or write it"
        raise InputError(Fault(f"templates/{main}", "no such file", next_step=step))
    found, waiting = [main], [main]
    while waiting:
        name_of = waiting.pop()
        for line, used, kind in _used(shelves.find("templates", name_of, project).read_text("utf-8")):
            told = f"templates/{name_of}"
            if used is None:
                raise InputError(Fault(told, f"{kind} of what only a value names", "a name in quotes", line=line))
            if kind == "extends" and used == name_of:
                step = "give it a name of its own, and name it in train.template"
                raise InputError(Fault(told, "extends itself", next_step=step, line=line))
            if used not in found and _is_there(used, project):
                found.append(used)
                waiting.append(used)
    return found


def _is_there(name: str, project: Path | None) -> bool:
    parts = Path(name).parts
    inside = ".." not in parts and not Path(name).is_absolute()
    places = [folder / name for folder in shelves.shelf_folders("templates", project)] if inside else []
    for place in places:
        look_at(place)
    return any(place.is_file() for place in places)


def _used(text: str) -> Iterator[tuple[int, str | None, str]]:
    """Give each template that another names: line, name (None where a value names it), how."""
    plain = _COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for tag in _TAG.finditer(plain):
        names = _NAME.findall(tag[2].partition(" import ")[0] if tag[1] == "from" else tag[2])
        line = plain.count("\n", 0, tag.start()) + 1
        rest = tag[2].lstrip("([ ")
        if not rest.startswith(("'", '"')):
            yield line, None, tag[1]
        else:
            yield from ((line, used, tag[1]) for used in names)


def names_value(name: str, project: Path | None, value: str) -> bool:
    """Say whether any file that a template is made of names a value."""
    files = template_files(name, project)
    return any(value in shelves.find("templates", file, project).read_text("utf-8") for file in files)


def render(name: str, values: Mapping[str, Any], project: Path | None) -> str:
    """Render a template of Python: in Jinja's sandbox, every name defined, and the outcome parsed.

    Raises InputError with the template's file and line.
    """
    files = template_files(name, project)
    environment = _environment(files, project)
    text = _rendered(environment, files, values)
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise InputError(_not_python(error, text, files, values, project)) from None
    return re.sub(r"\n{3,}", "\n\n", text)


def _environment(files: list[str], project: Path | None) -> jinja2.Environment:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    def load(name: str) -> tuple[str, str, None] | None:
        # Only what was found beforehand: any other file would be no source of the config.
        if name not in files:
            return None
        path = shelves.find("templates", name, project)
        return path.read_text("utf-8"), f"templates/{name}", None

    environment = SandboxedEnvironment(
        loader=jinja2.FunctionLoader(load), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # it writes Python, not HTML; every value goes through `py`
    )  # fmt: skip
    environment.filters["py"] = repr
    environment.filters["iterations"] = iterations
    return environment


def iterations(every: int | str) -> str:
    """Give, as Python, how many iterations apart: a number counts steps, "300 iterations" is what it says."""
    return f"{every} * accumulative_counts" if isinstance(every, int) else every.removesuffix(" iterations")


def _rendered(environment: jinja2.Environment, files: list[str], values: Mapping[str, Any]) -> str:
    import jinja2

    try:
        return environment.get_template(files[0]).render(values)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(Fault(error.filename or files[0], str(error.message), line=error.lineno)) from None
    except jinja2.TemplateNotFound as error:
        file, line = _place_of(error.__traceback__, files)
        raise InputError(Fault(file, f"names a template that is not there: {error.name}", line=line)) from None
    except Exception as error:  # noqa: BLE001 - a template's own expressions can raise anything
        file, line = _place_of(error.__traceback__, files)
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        raise InputError(Fault(file, f"{kind}{error}", line=line)) from None


def _place_of(trace: TracebackType | None, files: list[str]) -> tuple[str, int | None]:
    """Give the template and line that an exception left; Jinja puts them into its traceback."""
    frames = [frame for frame in traceback.extract_tb(trace) if frame.filename.startswith("templates/")]
    return (frames[-1].filename, frames[-1].lineno) if frames else (f"templates/{files[0]}", None)


def _not_python(
    error: SyntaxError | ValueError, text: str, files: list[str], values: Mapping[str, Any], project: Path | None
) -> Fault:
    """Say which line of which template gave what is not Python."""
    told = error.msg if isinstance(error, SyntaxError) else str(error)
    number = (error.lineno or 1) if isinstance(error, SyntaxError) else 1
    lines = text.split("\n")
    got = lines[number - 1].strip() if number <= len(lines) else None
    file, line = _line_behind(number, files, values, project)
    return Fault(file, f"gives Python that does not parse: {told}", got=got, line=line)


def _line_behind(number: int, files: list[str], values: Mapping[str, Any], project: Path | None) -> tuple[str, int]:
    """Give the template and line that a line of what was rendered comes from, by rendering it with places in it."""
    environment = _environment(files, project)
    environment.add_extension(_placing())
    marked = _rendered(environment, files, values).split("\n")
    places = [place for line in marked[:number] for place in _PLACE.findall(line)]
    return (f"templates/{places[-1][0]}", int(places[-1][1])) if places else (f"templates/{files[0]}", 1)


def _placing() -> type[jinja2.ext.Extension]:
    import jinja2.ext
    from jinja2.lexer import Token

    class Placing(jinja2.ext.Extension):
        """Puts template and line, between NULs, before each line of a template's own text."""

        def filter_stream(self, stream: Any) -> Iterator[Token]:
            for token in stream:
                if token.type != "data":
                    yield token
                    continue
                lines = token.value.split("\n")
                placed = [f"\0{stream.name}:{token.lineno + n}\0{line}" for n, line in enumerate(lines)]
                yield Token(token.lineno, "data", "\n".join(placed))

    return Placing
