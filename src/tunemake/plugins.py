"""Entry points to checked plugins."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tunemake import schema
from tunemake.contracts import Downloads, Generator, GeneratorError, Probe, ReadsFiles, UsesGenerators
from tunemake.digests import Digests, replace_text, sha256_of_json
from tunemake.faults import Fault, PluginError, TunemakeError, did_you_mean
from tunemake.glance import look_at
from tunemake.plugin import DATASETS, KINDS, OWN, PROBES, PROMPTS, Plugin
from tunemake.plugin_contract import Use, check_generator, check_probe, check_template, inputs_of, uses_of
from tunemake.plugin_files import (
    imported_files,
    let_import,
    own_module,
    place_in,
)

_DEEPEST = 20  # generators that use generators


@dataclass(frozen=True)
class GeneratorFacts:
    """What the build must know of a generator without importing it."""

    version: str
    needs_base: bool
    reads_files: bool
    uses_others: bool


class Plugins:
    """The plugins at hand: those of installed distributions and those in files of the project itself."""

    def __init__(self, root: Path, files: Iterable[str], digests: Digests) -> None:
        self._root, self._files, self._digests = root, tuple(files), digests
        # A module is imported once a process: what it is like, and the code it was like that by, stay as first seen.
        self._code_seen: dict[str, str] = {}
        self._facts: dict[str, GeneratorFacts] = {}
        self._checked: set[Plugin] = set()
        if self._files:
            let_import(str(root.resolve()))

    @cached_property
    def _found(self) -> dict[str, dict[str, list[Plugin]]]:
        found: dict[str, dict[str, list[Plugin]]] = {group: {} for group in KINDS}
        for group, names in found.items():
            for entry in entry_points(group=group):
                names.setdefault(entry.name, []).append(Plugin(entry.name, group, entry_point=entry))
            for plugins in names.values():
                if len(plugins) > 1:
                    plugins.sort(key=lambda plugin: plugin.origin)
            names.update(self._own(group))
        return found

    def _own(self, group: str) -> dict[str, list[Plugin]]:
        """Give the plugins of the project's own files; several of a name where files offer different ones."""
        offered: dict[str, list[tuple[Any, Plugin]]] = {}
        for file in self._files:
            for name, thing in OWN[group](self._root / file).items():
                others = offered.setdefault(name, [])
                if thing not in [other for other, _ in others]:  # a template may be imported from one into another
                    others.append((thing, Plugin(name, group, file=self._root / file, own=file)))
        return {name: [plugin for _, plugin in those] for name, those in offered.items()}

    def import_own(self, file: str) -> None:
        """Import a file of the project itself; raises PluginError where that fails."""
        own_module(self._root / file)

    def names(self, group: str) -> list[str]:
        """List the names of a group, imported or not."""
        return sorted(self._found[group])

    def all_of(self, group: str, name: str) -> list[Plugin]:
        """Give the plugins that offer a name: several where distributions clash."""
        return self._found[group].get(name, [])

    def get(self, group: str, name: str) -> Plugin:
        """Find a plugin by its name, or by distribution and name ("its-dist:its-name").

        Raises PluginError where there is none, or two distributions offer it. One in a file of the project itself
        goes before any that is installed.
        """
        distribution, _, short = name.rpartition(":")
        found = self._found[group].get(short, [])
        if distribution:
            found = [plugin for plugin in found if plugin.distribution == distribution]
        if not found:
            known = self.names(group)
            guess = did_you_mean(name, known) or "known: " + ", ".join(known)
            raise PluginError(Fault(name, f"no such {KINDS[group]}", next_step=guess))
        if len(found) > 1 and len({plugin.origin for plugin in found}) > 1:
            origins = " and ".join(plugin.origin for plugin in found)
            choice = "choose by " + " or ".join(f'"{plugin.distribution}:{short}"' for plugin in found)
            step = "rename one of them" if found[0].file else choice
            raise PluginError(Fault(name, f"two {KINDS[group]}s of this name: {origins}", next_step=step))
        return found[0]

    def code_digests(self, plugin: Plugin) -> dict[str, str]:
        """Give the digest of each file of a plugin's code, by name as seen from its package or the project."""
        files = plugin.code_below(self._root)
        return dict(zip(files, self._digests.of_many(files.values()), strict=True))

    def code(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Path]:
        """Give the code files of a generator and of all that it stands on, by name as in code_digests."""
        found: dict[str, Path] = {}
        for used, _ in self.used(name, parameters):
            found |= self.get(DATASETS, used).code_below(self._root)
        return found

    def generator(self, name: str) -> Generator:
        """Import a generator and check it against its contract."""
        plugin = self.get(DATASETS, name)
        made = plugin.made()
        if plugin not in self._checked:
            check_generator(plugin.title, made)
            self._checked.add(plugin)
        return made  # type: ignore[no-any-return]

    def probe(self, name: str) -> Probe:
        """Import a probe and check it against its contract."""
        plugin = self.get(PROBES, name)
        made = plugin.made()
        if plugin not in self._checked:
            check_probe(plugin.title, made)
            self._checked.add(plugin)
        return made  # type: ignore[no-any-return]

    def probe_parameters(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Fill a probe's parameters with the defaults that its schema declares."""
        filled: dict[str, Any] = schema.with_defaults(parameters, self.probe(name).parameters)
        return filled

    def probe_code(self, name: str) -> dict[str, Path]:
        """Give the code files of a probe, by name as in code_digests.

        Of those that ship, the module and what it imports of its package: the others beside it decide no score.
        """
        plugin = self.get(PROBES, name)
        code = plugin.code_below(self._root)
        if plugin.distribution != "tunemake" or plugin.entry_point is None:
            return code
        files = {path: told for told, path in code.items()}
        home = next(path for path in files if path.name == "__init__.py").parents[1]
        module = home.joinpath(*plugin.entry_point.module.split(".")).with_suffix(".py")
        return {files[path]: path for path in [module, *imported_files(module, home)] if path in files}

    def probe_inputs(self, name: str, parameters: Mapping[str, Any]) -> list[Path]:
        """Give the files that a probe reads beside its prompts."""
        made = self.probe(name)
        if not isinstance(made, ReadsFiles):
            return []
        filled = self.probe_parameters(name, parameters)
        return [
            self._root / path for path in self._ask(name, "inputs", partial(inputs_of, made.inputs, filled), PROBES)
        ]

    def probe_faults(
        self, name: str, parameters: Mapping[str, Any], at: schema.Path_
    ) -> list[tuple[schema.Path_, Fault]]:
        """Check a probe's parameters against its schema, as parameter_faults does a generator's."""
        seen = sha256_of_json(self.code_digests(self.get(PROBES, name)))
        key = sha256_of_json(["probe", name, seen, parameters])
        if self._mark(key).exists():
            return []
        faults = schema.schema_faults(parameters, self.probe(name).parameters, "project.toml", at)
        if not faults:
            self._write(self._mark(key), "")
        return faults

    def facts(self, name: str) -> GeneratorFacts:
        """Give a generator's facts, from a cache keyed by its code so that a known one is not imported."""
        if name not in self._facts:
            self._facts[name] = self._facts_of(name)
        return self._facts[name]

    def _seen_code(self, name: str) -> str:
        if name not in self._code_seen:
            self._code_seen[name] = sha256_of_json(self.code_digests(self.get(DATASETS, name)))
        return self._code_seen[name]

    def _facts_of(self, name: str) -> GeneratorFacts:
        mark = self._mark(sha256_of_json(["facts", name, self._seen_code(name)]))
        if known := _known_facts(mark):
            return known
        made = self.generator(name)
        needs = getattr(made, "needs", ())
        uses = isinstance(made, UsesGenerators)
        facts = GeneratorFacts(str(made.version), "base" in needs, isinstance(made, ReadsFiles), uses)
        self._write(mark, json.dumps(asdict(facts)))
        return facts

    def reads_in_sight(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Say whether what a generator reads or uses can change only where a glance would see it.

        One that only asks whether a file is there leaves no trace of that. Those that ship ask for what
        their parameters name; a pattern may match what nobody looked for, and of strangers nothing is known.
        """
        for used, its in self.used(name, parameters):
            facts = self.facts(used)
            if not (facts.reads_files or facts.uses_others):
                continue
            texts = list(_texts(its))
            if self.get(DATASETS, used).distribution != "tunemake" or any(glob.has_magic(text) for text in texts):
                return False
            for text in texts:
                look_at(self._root / text)
        return True

    def used(self, name: str, parameters: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """Name a generator and all that it stands on, each with its parameters; raises PluginError for a circle."""
        return list(self._used(name, parameters, ()))

    def _used(self, name: str, parameters: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[Use]:
        if len(above) == _DEEPEST:
            raise PluginError(Fault(self.get(DATASETS, name).title, f"uses itself: {' → '.join(above[-3:])} → {name}"))
        yield name, parameters
        if self.facts(name).uses_others:
            made = self.generator(name)
            assert isinstance(made, UsesGenerators)
            for other, its in self._ask(
                name, "uses", partial(uses_of, made.uses, self.with_defaults(name, parameters))
            ):
                yield from self._used(other, its, (*above, name))

    def needs_base(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Say whether a generator, or one that it uses, asks for the base model."""
        return any(self.facts(used).needs_base for used, _ in self.used(name, parameters))

    def inputs(self, name: str, parameters: Mapping[str, Any]) -> list[Path]:
        """Give the files that a generator, and those that it uses, will read."""
        found: list[Path] = []
        for used, its in self.used(name, parameters):
            if self.facts(used).reads_files:
                made = self.generator(used)
                assert isinstance(made, ReadsFiles)
                found += self._ask(used, "inputs", partial(inputs_of, made.inputs, self.with_defaults(used, its)))
        return [self._root / path for path in found]

    def downloads(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Say whether a generator, or one that it uses, would fetch something from a hub."""
        for used, its in self.used(name, parameters):
            made = self.generator(used)
            if isinstance(made, Downloads):
                parameters = self.with_defaults(used, its)
                if self._ask(used, "downloads", partial(_alone, made.downloads, parameters))[0]:
                    return True
        return False

    def with_defaults(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Fill a generator's parameters with the defaults that its schema declares."""
        filled: dict[str, Any] = schema.with_defaults(parameters, self.generator(name).parameters)
        return filled

    def _ask(self, name: str, method: str, answer: Callable[[], list[Any]], group: str = DATASETS) -> list[Any]:
        try:
            return answer()
        except TunemakeError:
            raise
        except GeneratorError as error:
            raise PluginError(Fault(name, str(error))) from error
        except Exception as error:  # a stranger's code can raise anything
            plugin = self.get(group, name)
            place = place_in(plugin.code(), error) or plugin.title
            what = f"{method} failed at {place}: {type(error).__name__}: {error}"
            raise PluginError(Fault(plugin.title, what)) from error

    def parameter_faults(
        self, name: str, parameters: Mapping[str, Any], at: schema.Path_
    ) -> list[tuple[schema.Path_, Fault]]:
        """Check parameters, and those of the generators used, against their schemas; a check passed is remembered.

        at: the path of the parameters in project.toml, which the faults name. Nothing is imported for what passed
        before.
        """
        faults = self._parameter_faults(name, parameters, at)
        if faults:
            return faults  # what it would use cannot be asked
        for used, its in self.used(name, parameters)[1:]:
            faults += [(at, replace(fault, what=f"{schema.dotted(at)}: {used}: {fault.what}"))
                       for _, fault in self._parameter_faults(used, its, ())]  # fmt: skip
        return faults

    def _parameter_faults(
        self, name: str, parameters: Mapping[str, Any], at: schema.Path_
    ) -> list[tuple[schema.Path_, Fault]]:
        key = sha256_of_json(["parameters", name, self._seen_code(name), parameters])
        if self._mark(key).exists():
            return []
        faults = schema.schema_faults(parameters, self.generator(name).parameters, "project.toml", at)
        if not faults:
            self._write(self._mark(key), "")
        return faults

    def prompt_template(self, name: str) -> dict[str, Any]:
        """Give a prompt template, checked against its schema and with defaults filled in."""
        plugin = self.get(PROMPTS, name)
        template = plugin.made()
        shape = schema.load_schema("prompt_template.schema.json")
        try:
            key = self._mark(sha256_of_json(["prompt", template, shape]))
        except (TypeError, ValueError) as error:  # no JSON: the check says what it is
            check_template(plugin.title, template, shape)
            raise PluginError(Fault(plugin.title, f"cannot be written as JSON: {error}")) from error
        if not key.exists():
            check_template(plugin.title, template, shape)
            self._write(key, "")
        filled: dict[str, Any] = schema.with_defaults(template, shape)
        del filled["summary"]  # for lists; it decides nothing
        return filled

    def template_as_written(self, name: str) -> Mapping[str, Any]:
        """Give a prompt template as its author wrote it, checked against its schema."""
        plugin = self.get(PROMPTS, name)
        template: Mapping[str, Any] = plugin.made()
        check_template(plugin.title, template, schema.load_schema("prompt_template.schema.json"))
        return template

    def _mark(self, key: str) -> Path:
        return self._root / "build" / ".cache" / "checked" / key

    @staticmethod
    def _write(mark: Path, text: str) -> None:
        with suppress(OSError):  # a full disk, a read-only folder: then it is checked again each time
            replace_text(mark, text)


def _alone(method: Callable[[Any], bool], parameters: Mapping[str, Any]) -> list[bool]:
    return [method(parameters)]


def _known_facts(mark: Path) -> GeneratorFacts | None:
    try:
        return GeneratorFacts(**json.loads(mark.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # not asked yet, or lost or damaged: asking again gives the same


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)
