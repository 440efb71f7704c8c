"""One plugin: found by its entry point or in a file of the project, and its code, before anything is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from tunemake.faults import Fault, PluginError, TunemakeError
from tunemake.plugin_files import imported_files, own_generators, own_probes, own_prompts

DATASETS, PROMPTS, PROBES = "tunemake.datasets", "tunemake.prompts", "tunemake.probes"
OWN: dict[str, Callable[[Path], dict[str, Any]]] = {
    DATASETS: own_generators, PROMPTS: own_prompts, PROBES: own_probes,
}  # fmt: skip
KINDS = {DATASETS: "dataset generator", PROMPTS: "prompt template", PROBES: "probe"}


@dataclass(frozen=True)
class Plugin:
    """A plugin found but not yet imported: of a distribution, or in a file of the project, named own there."""

    name: str
    group: str
    entry_point: EntryPoint | None = None
    file: Path | None = None
    own: str = ""

    @cached_property
    def origin(self) -> str:
        """Give its distribution with the version, or the project's own file; read only when asked, for it costs."""
        if self.entry_point is None:
            return self.own
        distribution = self.entry_point.dist
        return f"{distribution.name} {distribution.version}" if distribution else self.entry_point.value

    @property
    def distribution(self) -> str:
        """Name the distribution that it comes from; of the project's own file, the file."""
        return self.origin.partition(" ")[0]

    @property
    def title(self) -> str:
        """Say what it is and where it comes from, for messages."""
        return f"{KINDS[self.group]} {self.name} ({self.origin})"

    def code(self) -> list[Path]:
        """Give the files whose content is the plugin's code: the project's file, or its whole top-level package."""
        if self.file is not None:
            return [self.file]
        assert self.entry_point is not None
        top = _package(self.entry_point.module)
        if top is None or top.origin is None:
            raise PluginError(Fault(self.title, f"module {self.entry_point.module} not found"))
        origin = Path(top.origin)
        if not top.submodule_search_locations:
            # Modules beside one in a namespace package may be of its code; those beside a module of its own are not.
            return sorted(origin.parent.glob("*.py")) if "." in top.name else [origin]
        files = (path for path in origin.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return sorted(files)

    def load(self) -> Any:
        """Import the plugin and give its object; raises PluginError naming the distribution and the cause."""
        try:
            if self.file is not None:
                return OWN[self.group](self.file)[self.name]
            assert self.entry_point is not None
            return self.entry_point.load()
        except TunemakeError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's module can raise anything at import
            cause = f"cannot be imported: {type(error).__name__}: {error}"
            raise PluginError(Fault(self.title, cause)) from error

    def made(self) -> Any:
        """Give the plugin's object; where a class or a function gives it, what that gives."""
        thing = self.load()
        try:
            return thing() if isinstance(thing, type) or (self.group == PROMPTS and callable(thing)) else thing
        except Exception as error:  # a stranger's code can raise anything
            what = f"cannot be made: {type(error).__name__}: {error}"
            raise PluginError(Fault(self.title, what)) from error

    def code_below(self, root: Path) -> dict[str, Path]:
        """Give its code files, with those that one of the project's imports, by name as seen from package or root."""
        files = self.code()
        if self.file is not None:
            files += imported_files(self.file, root)
        home = root if self.file else files[0].parent if len(files) == 1 else _common(files)
        return {str(file.relative_to(home)) if file.is_relative_to(home) else file.name: file for file in files}


def _package(module: str) -> ModuleSpec | None:
    """Find a module's top-level package; of a namespace package, which has no file, the first below that has one."""
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        spec = importlib.util.find_spec(".".join(names[:depth]))
        if spec is None or spec.origin is not None:
            return spec
    return None


def _common(files: list[Path]) -> Path:
    top = files[0].parent
    while not all(file.is_relative_to(top) for file in files):
        top = top.parent
    return top.parent
