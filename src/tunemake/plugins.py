"""Entry points to checked plugins; the only user of importlib.metadata."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any

from tunemake import schema
from tunemake.contracts import Generator, ReadsFiles
from tunemake.digests import Digests, sha256_of_json
from tunemake.faults import Fault, PluginError, did_you_mean

DATASETS, PROMPTS = "tunemake.datasets", "tunemake.prompts"
_KINDS = {DATASETS: "dataset generator", PROMPTS: "prompt template"}


@dataclass(frozen=True)
class GeneratorFacts:
    """What the build must know of a generator without importing it."""

    version: str
    needs_base: bool
    reads_files: bool


@dataclass(frozen=True)
class Plugin:
    """A plugin found but not yet imported. origin: its distribution, or the project's own file."""

    name: str
    group: str
    origin: str
    entry_point: EntryPoint | None = None
    file: Path | None = None

    @property
    def title(self) -> str:
        """Say what it is and where it comes from, for messages."""
        return f"{_KINDS[self.group]} {self.name} ({self.origin})"

    def code(self) -> list[Path]:
        """Give the files whose content is the plugin's code: the project's file, or its whole package."""
        if self.file is not None:
            return [self.file]
        assert self.entry_point is not None
        top = importlib.util.find_spec(self.entry_point.module.partition(".")[0])
        if top is None or top.origin is None:
            raise PluginError(Fault(self.title, f"module {self.entry_point.module} not found"))
        origin = Path(top.origin)
        if not top.submodule_search_locations:
            return [origin]
        files = (path for path in origin.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return sorted(files)

    def load(self) -> Any:
        """Import the plugin and give its object; raises PluginError naming the distribution and the cause."""
        try:
            if self.file is not None:
                return _own_objects(self.file, self.group)[self.name]
            assert self.entry_point is not None
            return self.entry_point.load()
        except PluginError:
            raise
        except Exception as error:  # a stranger's module can raise anything at import
            cause = f"cannot be imported: {type(error).__name__}: {error}"
            raise PluginError(Fault(self.title, cause)) from error


class Plugins:
    """The plugins at hand: those of installed distributions and those in files of the project itself."""

    def __init__(self, root: Path, files: Iterable[str], digests: Digests) -> None:
        self._root, self._files, self._digests = root, tuple(files), digests

    @cached_property
    def _found(self) -> dict[str, dict[str, list[Plugin]]]:
        found: dict[str, dict[str, list[Plugin]]] = {DATASETS: {}, PROMPTS: {}}
        for group, names in found.items():
            for entry in entry_points(group=group):
                origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
                plugin = Plugin(entry.name, group, origin, entry_point=entry)
                names.setdefault(entry.name, []).append(plugin)
            for file in self._files:
                for name in _own_objects(self._root / file, group):
                    names[name] = [Plugin(name, group, file, file=self._root / file)]
        return found

    def import_own(self, file: str) -> None:
        """Import a file of the project itself; raises PluginError where that fails."""
        _own_module(self._root / file)

    def names(self, group: str) -> list[str]:
        """List the names of a group, imported or not."""
        return sorted(self._found[group])

    def get(self, group: str, name: str) -> Plugin:
        """Find a plugin by name; raises PluginError where there is none, or two distributions offer it."""
        found = self._found[group].get(name, [])
        if not found:
            known = self.names(group)
            guess = did_you_mean(name, known) or "known: " + ", ".join(known)
            raise PluginError(Fault(name, f"no such {_KINDS[group]}", next_step=guess))
        if len({plugin.origin for plugin in found}) > 1:
            origins = " and ".join(plugin.origin for plugin in found)
            raise PluginError(Fault(name, f"two {_KINDS[group]}s of this name: {origins}", next_step="remove one"))
        return found[0]

    def code_digests(self, plugin: Plugin) -> dict[str, str]:
        """Give the digest of each file of a plugin's code, by name as seen from its package or the project."""
        files = plugin.code()
        home = self._root if plugin.file else files[0].parent if len(files) == 1 else _common(files)
        return dict(zip([str(file.relative_to(home)) for file in files], self._digests.of_many(files), strict=True))

    def generator(self, name: str) -> Generator:
        """Import a generator and check it against its contract."""
        plugin = self.get(DATASETS, name)
        thing = plugin.load()
        made = thing() if isinstance(thing, type) else thing
        _check_generator(plugin, made)
        return made  # type: ignore[no-any-return]

    def facts(self, name: str) -> GeneratorFacts:
        """Give a generator's facts, from a cache keyed by its code so that a known one is not imported."""
        key = sha256_of_json(["facts", name, self.code_digests(self.get(DATASETS, name))])
        mark = self._mark(key)
        if mark.exists():
            return GeneratorFacts(**json.loads(mark.read_text("utf-8")))
        made = self.generator(name)
        needs = getattr(made, "needs", ())
        facts = GeneratorFacts(str(made.version), "base" in needs, isinstance(made, ReadsFiles))
        self._write(mark, json.dumps(asdict(facts)))
        return facts

    def inputs(self, name: str, parameters: Mapping[str, Any]) -> list[Path]:
        """Give the files that a generator will read; empty for one that reads none."""
        if not self.facts(name).reads_files:
            return []
        made = self.generator(name)
        assert isinstance(made, ReadsFiles)
        return [self._root / path for path in made.inputs(parameters)]

    def parameter_faults(
        self, name: str, parameters: Mapping[str, Any], at: schema.Path_
    ) -> list[tuple[schema.Path_, Fault]]:
        """Check parameters against the generator's schema; nothing is imported where the same passed before.

        at: the path of the parameters in project.toml, which the faults name.
        """
        key = sha256_of_json(["parameters", name, self.code_digests(self.get(DATASETS, name)), parameters])
        if self._mark(key).exists():
            return []
        faults = schema.schema_faults(parameters, self.generator(name).parameters, "project.toml", at)
        if not faults:
            self._write(self._mark(key), "")
        return faults

    def prompt_template(self, name: str) -> dict[str, Any]:
        """Give a prompt template, checked against its schema and with defaults filled in."""
        plugin = self.get(PROMPTS, name)
        thing = plugin.load()
        template = thing() if callable(thing) else thing
        shape = schema.load_schema("prompt_template.schema.json")
        key = self._mark(sha256_of_json(["prompt", template, shape]))
        if not key.exists():
            faults = schema.schema_faults(template, shape, plugin.title)
            if faults:
                raise PluginError(fault for _, fault in faults)
            self._write(key, "")
        filled: dict[str, Any] = schema.with_defaults(template, shape)
        del filled["summary"]  # for lists; it decides nothing
        return filled

    def _mark(self, key: str) -> Path:
        return self._root / "build" / ".cache" / "checked" / key

    @staticmethod
    def _write(mark: Path, text: str) -> None:
        mark.parent.mkdir(parents=True, exist_ok=True)
        draft = mark.with_suffix(".draft")
        draft.write_text(text, "utf-8")
        draft.replace(mark)


def installed_version(distribution: str) -> str | None:
    """Give the version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _check_generator(plugin: Plugin, made: Any) -> None:
    texts = {name: getattr(made, name, None) for name in ("summary", "version")}
    unset = [name for name, text in texts.items() if not isinstance(text, str) or not text]
    faults = [Fault(plugin.title, f"{name}: missing", expected="a text") for name in unset]
    if not callable(getattr(made, "samples", None)):
        faults.append(Fault(plugin.title, "samples: missing", expected="a method samples(parameters, context)"))
    parameters = getattr(made, "parameters", None)
    wrong = "parameters: missing" if parameters is None else schema.invalid_schema(parameters)
    if wrong:
        faults.append(Fault(plugin.title, wrong, expected="a JSON Schema of draft 2020-12"))
    if faults:
        raise PluginError(faults)


def _own_objects(file: Path, group: str) -> dict[str, Any]:
    module = _own_module(file)
    if group == PROMPTS:
        things = {k: v for k, v in vars(module).items() if isinstance(v, dict) and "instruction" in v}
        return {name: thing for name, thing in things.items() if not name.startswith("_")}
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    return {_snake(made.__name__): made for made in classes if hasattr(made, "samples")}


def _own_module(file: Path) -> ModuleType:
    name = f"tunemake_project_{sha256_of_json(str(file))[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(Fault(file.name, "not a Python file"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's module can raise anything at import
        del sys.modules[name]
        told = error.msg if isinstance(error, SyntaxError) else error
        what = f"cannot be imported: {type(error).__name__}: {told}"
        raise PluginError(Fault(place_in([file], error) or file.name, what)) from error
    return module


def place_in(files: Collection[Path], error: BaseException) -> str | None:
    """Give the line of a plugin's files at which an exception left its code, such as my_data.py:14, or None."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) in files:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) in files]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _common(files: list[Path]) -> Path:
    top = files[0].parent
    while not all(file.is_relative_to(top) for file in files):
        top = top.parent
    return top.parent
