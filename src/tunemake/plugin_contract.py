"""What a plugin must be and what its methods must give; whatever a stranger's code gives instead is told in a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tunemake import schema
from tunemake.contracts import GeneratorError
from tunemake.faults import Fault, PluginError

Use = tuple[str, Mapping[str, Any]]


def check_generator(title: str, made: Any) -> None:
    """Check a generator against its contract; raises PluginError with all that is wrong."""
    texts = {name: getattr(made, name, None) for name in ("summary", "version")}
    unset = [name for name, text in texts.items() if not isinstance(text, str) or not text]
    faults = [Fault(title, f"{name}: missing", expected="a text") for name in unset]
    if not callable(getattr(made, "samples", None)):
        faults.append(Fault(title, "samples: missing", expected="a method samples(parameters, context)"))
    faults += [
        Fault(title, f"{name}: not a method", expected=f"a method {name}(parameters)")
        for name in ("inputs", "uses", "downloads")
        if hasattr(made, name) and not callable(getattr(made, name))
    ]
    needs = getattr(made, "needs", ())
    if not isinstance(needs, tuple | list) or list(needs) not in ([], ["base"]):
        faults.append(Fault(title, "needs: not known", expected='("base",)', got=_shown(needs)))
    faults += _wrong_schema(title, getattr(made, "parameters", None))
    if faults:
        raise PluginError(faults)


NEEDS = ("questions", "references", "base", "divergence", "held_out")  # what a probe may ask for


def check_probe(title: str, made: Any) -> None:
    """Check a probe against its contract; raises PluginError with all that is wrong."""
    texts = {name: getattr(made, name, None) for name in ("summary", "version", "unit")}
    unset = [name for name, text in texts.items() if not isinstance(text, str) or not text]
    faults = [Fault(title, f"{name}: missing", expected="a text") for name in unset]
    if not callable(getattr(made, "score", None)):
        faults.append(Fault(title, "score: missing", expected="a method score(parameters, model)"))
    needs = getattr(made, "needs", None)
    if not isinstance(needs, tuple | list) or not set(needs) <= set(NEEDS):
        faults.append(Fault(title, "needs: not known", expected=f"a list of {', '.join(NEEDS)}", got=_shown(needs)))
    faults += _wrong_schema(title, getattr(made, "parameters", None))
    if faults:
        raise PluginError(faults)


def _wrong_schema(title: str, parameters: Any) -> list[Fault]:
    wrong = "parameters: missing" if parameters is None else schema.invalid_schema(parameters)
    return [Fault(title, wrong, expected="a JSON Schema of draft 2020-12")] if wrong else []


def check_template(title: str, template: Any, shape: Mapping[str, Any]) -> None:
    """Check a prompt template against its schema; raises PluginError with all that is wrong."""
    if faults := schema.schema_faults(template, shape, title):
        raise PluginError(fault for _, fault in faults)


def inputs_of(inputs: Callable[[Any], Any], parameters: Mapping[str, Any]) -> list[Path]:
    """Ask a generator for the files that it reads; raises GeneratorError where it gives no paths."""
    expected = "a list of paths"
    found: list[Path] = []
    for one in _listed("inputs", inputs(parameters), expected):
        if not isinstance(one, str | os.PathLike):
            raise _wrong("inputs", expected, f"{_shown(one)} in it")
        found.append(Path(one))
    return found


def uses_of(uses: Callable[[Any], Any], parameters: Mapping[str, Any]) -> list[Use]:
    """Ask a generator for those that it uses; raises GeneratorError where it gives no names with parameters."""
    expected = "a list of pairs, each a generator's name and its parameters"
    found: list[Use] = []
    for one in _listed("uses", uses(parameters), expected):
        pair = tuple(one) if isinstance(one, tuple | list) else ()
        if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], Mapping):  # noqa: PLR2004
            raise _wrong("uses", expected, f"{_shown(one)} in it")
        found.append((pair[0], pair[1]))
    return found


def _listed(method: str, given: Any, expected: str) -> list[Any]:
    if isinstance(given, str | bytes | os.PathLike | Mapping) or not isinstance(given, Iterable):
        raise _wrong(method, expected, _shown(given))
    return list(given)


def _wrong(method: str, expected: str, got: str) -> GeneratorError:
    return GeneratorError(f"{method}: wrong value given; expected {expected}, got {got}")


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:59] + "…"  # noqa: PLR2004
