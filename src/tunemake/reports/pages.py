"""Renders templates/report/ in Jinja's sandbox; what comes from models, data and plugins is text there, no markup."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunemake import shelves

if TYPE_CHECKING:
    import jinja2

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_THOUSAND = 1000
_MINUTE, _HOUR = 60, 3600
_MARKS = re.compile(r"([\\`*_\[\]|~$@]|:(?=//))")
_SPACE = re.compile(r"\s+")
# What steers a terminal or turns the direction of the text after it.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def html(name: str, values: Mapping[str, Any]) -> str:
    """Render templates/report/NAME: every value is escaped but what `plots` drew."""
    return _rendered(name, values, autoescape=True)


def markdown(name: str, values: Mapping[str, Any]) -> str:
    """Render templates/report/NAME: every value loses its meaning in Markdown and HTML but what `fenced` wrote."""
    return _rendered(name, values, autoescape=False)


def _rendered(name: str, values: Mapping[str, Any], *, autoescape: bool) -> str:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        loader=jinja2.FunctionLoader(lambda of: shelves.find("templates", f"report/{of}").read_text("utf-8")),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=autoescape, finalize=visible if autoescape else _as_markdown,
    )  # fmt: skip
    _add_filters(environment)
    return environment.get_template(name).render(values)


def _add_filters(environment: jinja2.Environment) -> None:
    from markupsafe import Markup

    environment.filters |= {
        "number": number, "amount": amount, "span": span, "json": _json,
        "percent": lambda share: f"{share * 100:.0f} %",
        "fenced": lambda text: Markup(fenced(text)),  # noqa: S704 - a fence longer than any in it
        "drawn": Markup,  # for what plots drew
        "written": Markup,  # for YAML of huggingface_hub's, and lines of code of ours
    }  # fmt: skip


def visible(value: Any) -> Any:
    """Show control characters of a text by their numbers."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value) if type(value) is str else value


def _as_markdown(value: Any) -> Any:
    return value if hasattr(value, "__html__") else in_markdown(str(value))


def in_markdown(text: str) -> str:
    """Write a text, in one line, such that Markdown shows it as it is: no markup, link, cell's border or HTML."""
    line = _SPACE.sub(" ", visible(text))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"(?i)\bwww\.", r"www\\.", _MARKS.sub(r"\\\1", line))  # links without any mark, in GitHub's dialect
    return re.sub(r"^(\d+(?=\.\s)|(?=[-+=#]))", r"\1\\", line)  # a list or a heading


def fenced(text: str, language: str = "") -> str:
    """Write a block of code whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def _json(value: Any) -> str:
    """Write a value on one line; unlike Jinja's own it is no markup, and so is escaped as any text."""
    return json.dumps(value, ensure_ascii=False)


def number(value: float | None) -> str:
    """Write a number to four digits; a dash for none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def amount(count: float | None) -> str:
    """Write a number of bytes as a person would say it."""
    if count is None:
        return "–"
    for unit in _UNITS:
        if count < _THOUSAND or unit == _UNITS[-1]:
            break
        count /= _THOUSAND
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def span(seconds: float | None) -> str:
    """Write seconds as a person would say it."""
    if seconds is None:
        return "–"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
