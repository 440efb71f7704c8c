"""tunemake plugins: which dataset generators, prompt templates and probes there are, and what one of them takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunemake.commands.options import Option, options_of
from tunemake.digests import DIGESTS, Digests
from tunemake.faults import Fault, InputError, PluginError, TunemakeError, did_you_mean
from tunemake.plugin import DATASETS, KINDS, PROBES, PROMPTS, Plugin
from tunemake.plugins import Plugins
from tunemake.project import FILE, Project, load_variants


@dataclass
class Listing:
    """What the command prints. lines: for standard output; warnings: beside it; faults: of what the project uses."""

    lines: list[str]
    warnings: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def list_plugins(root: Path, *, check: bool, machine: bool) -> Listing:
    """List the plugins at hand for a project's folder, or for none.

    Imports none that is installed, so that a summary is not known; the project's own files are imported. check: import
    each one and tell those that are broken, as warnings, or as faults where the project uses them. machine: as JSON.
    """
    listing = Listing([])
    variants, plugins = _at_hand(root, listing)
    used = _used(variants, plugins) if check else set()
    told = []
    for plugin in _sorted(plugins):
        name = _name(plugin, plugins)
        row = {"name": name, "group": plugin.group, "origin": plugin.origin}
        if check:
            try:
                row["summary"] = _summary(plugins, plugin, name)
            except TunemakeError as error:
                row["broken"] = str(error)
                uses = (plugin.group, name) in used
                listing.faults += error.faults if uses else ()
                listing.warnings += [] if uses else [f"warning: {fault}" for fault in error.faults]
        told.append(row)
    listing.lines = [_json(told)] if machine else list(_list(told, checked=check))
    return listing


def show_plugin(root: Path, name: str, *, machine: bool) -> Listing:
    """Show what is known of the plugins of a name: the parameters that one takes, of a prompt template its values.

    Raises PluginError where there is none, or one is broken.
    """
    listing = Listing([])
    _, plugins = _at_hand(root, listing)
    groups = [group for group in KINDS if _has(plugins, group, name)]
    if not groups:
        known = [_name(plugin, plugins) for plugin in _sorted(plugins)]
        step = did_you_mean(name, known) or "tunemake plugins lists them"
        unknown = Fault(name, "no such dataset generator, prompt template or probe", next_step=step)
        raise PluginError([*listing.faults, unknown])
    shown = [_SHOWN[group](plugins, name) for group in groups]
    listing.lines = [_json(shown)] if machine else [line for one in shown for line in _shown(one)]
    return listing


def _at_hand(root: Path, listing: Listing) -> tuple[list[Project], Plugins]:
    """Give the project's variants and the plugins at hand; a file that cannot be imported is left out and told."""
    digests = Digests(root / DIGESTS)
    if not (root / FILE).exists():
        return [], Plugins(root, [], digests)
    try:
        variants = load_variants(root)
    except InputError as error:
        listing.faults += error.faults
        return [], Plugins(root, [], digests)
    whole = []
    for file in variants[0].plugins:
        if not (root / file).is_file():
            listing.faults.append(Fault(file, "no such file"))
            continue
        try:
            Plugins(root, [file], digests).import_own(file)
            whole.append(file)
        except InputError as error:
            listing.faults += error.faults
    return variants, Plugins(root, whole, digests)


def _used(variants: Iterable[Project], plugins: Plugins) -> set[tuple[str, str]]:
    """Name what the project uses; of a broken generator, what it would use cannot be asked."""
    names = set()
    for project in variants:
        names.add((PROMPTS, project.model["prompt_template"]))
        stopping = project.train.get("early_stop", {"probe": []})["probe"]
        names |= {(PROBES, probe["kind"]) for probe in [*(project.evaluate or {"probe": []})["probe"], *stopping]}
        for dataset in project.datasets:
            names.add((DATASETS, dataset.generator))
            try:
                names.update((DATASETS, used) for used, _ in plugins.used(dataset.generator, dataset.parameters))
            except InputError:
                continue  # the generator's own line tells
    return names


def _sorted(plugins: Plugins) -> Iterator[Plugin]:
    for group in KINDS:
        for name in plugins.names(group):
            yield from plugins.all_of(group, name)


def _name(plugin: Plugin, plugins: Plugins) -> str:
    """Give the name that project.toml chooses it by."""
    alone = len(plugins.all_of(plugin.group, plugin.name)) == 1
    return plugin.name if alone else f"{plugin.distribution}:{plugin.name}"


def _has(plugins: Plugins, group: str, name: str) -> bool:
    short = name.rpartition(":")[2]
    return bool(plugins.all_of(group, short))


def _summary(plugins: Plugins, plugin: Plugin, name: str) -> str:
    if plugin.group == DATASETS:
        return plugins.generator(name).summary
    if plugin.group == PROBES:
        return plugins.probe(name).summary
    return str(plugins.template_as_written(name)["summary"])


def _generator(plugins: Plugins, name: str) -> dict[str, Any]:
    made, plugin = plugins.generator(name), plugins.get(DATASETS, name)
    return {
        "name": name, "group": DATASETS, "origin": plugin.origin, "summary": made.summary, "version": made.version,
        "needs": list(getattr(made, "needs", ())), "parameters": dict(made.parameters),
    }  # fmt: skip


def _template(plugins: Plugins, name: str) -> dict[str, Any]:
    values = dict(plugins.template_as_written(name))
    summary = values.pop("summary")
    origin = plugins.get(PROMPTS, name).origin
    return {"name": name, "group": PROMPTS, "origin": origin, "summary": summary, "values": values}


def _probe(plugins: Plugins, name: str) -> dict[str, Any]:
    made, plugin = plugins.probe(name), plugins.get(PROBES, name)
    return {
        "name": name, "group": PROBES, "origin": plugin.origin, "summary": made.summary, "version": made.version,
        "unit": made.unit, "needs": list(made.needs), "parameters": dict(made.parameters),
    }  # fmt: skip


_SHOWN = {DATASETS: _generator, PROMPTS: _template, PROBES: _probe}


def _shown(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{KINDS[told['group']]} {told['name']} ({told['origin']})"
    yield f"  {told['summary']}"
    if told["group"] != PROMPTS:
        yield f"  version {told['version']}" + "".join(_terms(told))
        rows = list(options_of(told["parameters"]))
        yield from (f"  {line}".rstrip() for line in _columns([Option._fields, *rows])) if rows else ["  no parameters"]
        return
    for key, value in told["values"].items():
        yield f"  {key} = {json.dumps(value, ensure_ascii=False)}"


def _terms(told: Mapping[str, Any]) -> Iterator[str]:
    if told["group"] == PROBES:
        yield f"; gives {told['unit']}"
        yield f"; needs {', '.join(told['needs'])}" if told["needs"] else ""
    elif "base" in told["needs"]:
        yield "; asks the base model"


def _list(rows: Sequence[Mapping[str, str]], *, checked: bool) -> Iterator[str]:
    for group, kind in KINDS.items():
        yield f"{kind}s ({group})"
        cells = [[row["name"], row["origin"], row.get("summary", "broken") if checked else ""]
                 for row in rows if row["group"] == group]  # fmt: skip
        yield from (f"  {line}".rstrip() for line in _columns(cells))
    if not checked:
        yield "tunemake plugins NAME shows one; --check imports them all"


def _columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    from rich.cells import cell_len

    listed = list(rows)
    widths = [max(map(cell_len, column)) for column in zip(*listed, strict=True)]
    for row in listed:
        yield "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
