"""Conversations written by Jinja templates over the rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, GeneratorError, Sample
from tunemake_builtins.conversations import BadRow, filled, kind, pair
from tunemake_builtins.rows import CHOICE, FILES, TABLE, files_of, guess, is_json, read, samples_from, schema

_ROLES = ("system", "user", "assistant")
# What an expression of a template can end in for some values and not for others.
_OF_VALUES = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


def _template(what: str) -> dict[str, Any]:
    text = f"Jinja template of {what}; a row's columns are its names, and row[...] holds those with other letters"
    return {"type": "string", "minLength": 1, "description": text}


class JinjaTable:
    """A dataset generator: each row, put into templates of the user's and the assistant's turn."""

    summary = "conversations written by Jinja templates over the rows of a table (CSV, XLSX, JSON or Parquet)"
    version = "1"
    parameters: Mapping[str, Any] = schema(
        ["files", "user", "assistant"],
        files=FILES,
        user=_template("the user's turn"),
        assistant=_template("the assistant's turn"),
        system=_template("a system message; a row where it is empty has none"),
        **TABLE,
        **CHOICE,
    )

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files."""
        return files_of(parameters["files"])

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations; a row that makes an empty turn is bad."""
        fixed = not any(is_json(file) for file in files_of(parameters["files"], context.root))
        templates = _Templates(parameters, fixed=fixed)
        return samples_from(read(parameters, context), templates.sample, parameters, context)


class _Templates:
    """The templates, compiled once. They are the project's own; sandboxed all the same, and rows are only values.

    fixed: all rows have the same columns, so that a name that one lacks is the template's fault.
    """

    def __init__(self, parameters: Mapping[str, Any], *, fixed: bool) -> None:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        # The same rows give the same samples: nothing random, and no object whose text is its place in memory.
        del environment.filters["random"]
        for name in ("lipsum", "cycler", "joiner", "namespace"):
            del environment.globals[name]
        told = {role: parameters[role] for role in _ROLES if parameters.get(role)}
        self._fixed = fixed
        self._templates = {role: _compiled(environment, role, text) for role, text in told.items()}

    def sample(self, row: Any) -> Sample:
        """Give a row's conversation; raises BadRow."""
        if not isinstance(row, dict):
            raise BadRow(f"{kind(row)} where an object is expected")
        texts = {role: _rendered(role, template, row, fixed=self._fixed) for role, template in self._templates.items()}
        system = texts.get("system", "")
        system = "" if not system.strip() else filled(system, "system")
        return pair(filled(texts["user"], "user"), filled(texts["assistant"], "assistant"), system)


def _compiled(environment: Any, role: str, text: str) -> Any:
    from jinja2 import TemplateError

    try:
        return environment.from_string(text)
    except (TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        raise GeneratorError(f"{role}: line {line} of the template: {_first_line(error)}") from error


def _rendered(role: str, template: Any, row: dict[str, Any], *, fixed: bool) -> str:
    from jinja2.exceptions import SecurityError, TemplateError, UndefinedError

    try:
        return str(template.render({**row, "row": row}))
    except UndefinedError as error:
        name = str(error).partition("'")[2].partition("'")[0]
        what = f"{role}: {_first_line(error)}; {guess(name, row)}"
        raise GeneratorError(what) if fixed and name not in row else BadRow(what) from None
    except SecurityError as error:
        raise GeneratorError(f"{role}: not allowed in a template: {_first_line(error)}") from error
    except (
        TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise BadRow(f"{role}: {type(error).__name__}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
