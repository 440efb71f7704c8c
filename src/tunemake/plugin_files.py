"""The code of plugins: a project's own Python file imported, and the line of a plugin at which an exception left it."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import traceback
from collections.abc import Collection
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tunemake.digests import sha256_of_json
from tunemake.faults import Fault, PluginError
from tunemake.glance import look_at

_TEMPLATE = {"instruction", "from_tokenizer"}  # a prompt template holds one of these
_homes: set[str] = set()


class _FromSource(SourceFileLoader):
    """Compiles a file each time: Python takes old bytecode for one edited in the same second to the same size."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def let_import(home: str) -> None:
    """Let a project's files import each other; its folder comes last, so that none hides a library."""
    if home not in sys.path:
        sys.path.append(home)
    if not _homes:
        sys.path_hooks.insert(0, _finder)
    if home not in _homes:
        _homes.add(home)
        for place in [place for place in sys.path_importer_cache if _is_own(place)]:
            del sys.path_importer_cache[place]


def _finder(place: str) -> FileFinder:
    if not (_is_own(place) and Path(place).is_dir()):
        raise ImportError(place)
    return FileFinder(place, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES))


def _is_own(place: str) -> bool:
    """Say whether a folder is of a project's code, and not of an environment or a library that lies inside."""
    nearest = max((path for path in sys.path if path and Path(place).is_relative_to(path)), key=len, default="")
    return nearest in _homes


def own_generators(file: Path) -> dict[str, type]:
    """Give the dataset generators of a project's own file: its classes with `samples`, named in snake_case."""
    return _own_classes(file, "samples")


def own_probes(file: Path) -> dict[str, type]:
    """Give the probes of a project's own file: its classes with `score`, named in snake_case."""
    return _own_classes(file, "score")


def _own_classes(file: Path, method: str) -> dict[str, type]:
    module = own_module(file)
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    found: dict[str, type] = {}
    for made in classes:
        if not hasattr(made, method):
            continue
        other = found.setdefault(name := _snake(made.__name__), made)
        if other is not made:
            both = f"{other.__name__} and {made.__name__}"
            raise PluginError(Fault(file.name, f"two classes give the name {name}: {both}", next_step="rename one"))
    return found


def own_prompts(file: Path) -> dict[str, Any]:
    """Give the prompt templates of a project's own file: its tables with `instruction` or `from_tokenizer`, by name."""
    things = {k: v for k, v in vars(own_module(file)).items() if isinstance(v, dict) and _TEMPLATE & v.keys()}
    return {name: thing for name, thing in things.items() if not name.startswith("_")}


def own_module(file: Path) -> ModuleType:
    """Import a project's own file; raises PluginError naming the line at which that fails."""
    name = f"tunemake_project_{sha256_of_json(str(file))[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file, loader=_FromSource(name, str(file)))
    if file.suffix != ".py" or spec is None or spec.loader is None:
        raise PluginError(Fault(file.name, "not a Python file"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's module can raise anything at import
        del sys.modules[name]
        told = error.msg if isinstance(error, SyntaxError) else error
        what = f"cannot be imported: {type(error).__name__}: {told}"
        raise PluginError(Fault(place_in([file], error) or file.name, what)) from error
    return module


def imported_files(file: Path, root: Path) -> list[Path]:
    """List the project's other Python files that one imports, and those that they import in turn."""
    found: list[Path] = []
    waiting = [file]
    while waiting:
        for name in _imports(waiting.pop(), root):
            place = root.joinpath(*name.split("."))
            for path in (place.with_suffix(".py"), place / "__init__.py"):
                look_at(path)
                if path.is_file() and path != file and path not in found:
                    found.append(path)
                    waiting.append(path)
    return found


def _imports(file: Path, root: Path) -> set[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()  # importing it will tell
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (module := _source(node, file, root)):
            names.update([module, *(f"{module}.{alias.name}" for alias in node.names)])
    # The package of a.b runs too when a.b is imported.
    return {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}


def _source(node: ast.ImportFrom, file: Path, root: Path) -> str:
    """Name the module that names are imported from; of a relative import, as seen from the project, or ""."""
    told = node.module.split(".") if node.module else []
    if not node.level:
        return ".".join(told)
    if not file.is_relative_to(root):
        return ""
    package = file.relative_to(root).parts[: -node.level]
    return ".".join([*package, *told])


def place_in(files: Collection[Path], error: BaseException) -> str | None:
    """Give the line of a plugin's files at which an exception left its code, such as my_data.py:14, or None."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) in files:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) in files]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
