"""XTuner's own prompt templates, read from the installed XTuner without importing it: each name is a template."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from tunemake.contracts import PromptTemplate
from tunemake.prompts import from_xtuner

_FILE = "utils/templates.py"


def __getattr__(name: str) -> PromptTemplate:
    if name.startswith("__"):
        raise AttributeError(name)
    found = _forms()
    if name not in found:
        raise AttributeError(f"the installed XTuner has no template {name}; it has {', '.join(sorted(found))}")
    return cast("PromptTemplate", {"summary": f"XTuner's {name}", **from_xtuner(found[name])})


@cache
def _forms() -> dict[str, dict[str, Any]]:
    """Read PROMPT_TEMPLATE, which is written as nested calls of ConfigDict and dict with nothing but literals."""
    package = find_spec("xtuner")
    if package is None or package.origin is None:
        raise ImportError("XTuner, whose templates these are, is not installed: pip install 'tunemake[train]'")
    path = Path(package.origin).parent / _FILE
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PROMPT_TEMPLATE":
            return cast("dict[str, dict[str, Any]]", _value(node.value))
    raise ImportError(f"xtuner/{_FILE} holds no PROMPT_TEMPLATE")


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and not node.args:
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    return ast.literal_eval(node)
