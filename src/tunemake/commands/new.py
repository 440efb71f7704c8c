"""tunemake new: a dataset generator, a prompt template or a training template to begin from, which works as it is."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunemake.commands import scaffolds
from tunemake.commands.project_edits import put_in
from tunemake.commands.template_copy import flat
from tunemake.digests import DIGESTS, Digests
from tunemake.engines.config_templates import template_names
from tunemake.faults import Fault, InputError, ProjectError
from tunemake.plugin import DATASETS, KINDS, PROMPTS
from tunemake.plugins import Plugins
from tunemake.project import FILE, Project, load_project

_TABLE = """\
[datasets.{name}]
generator = "{name}"
parameters = {{ words = ["apple", "river", "window"] }}
"""
_MODEL = """\
[model]
prompt_template = "{name}"
"""


@dataclass(frozen=True)
class _Kind:
    """What the scaffolds of a plugin's kind differ in. thing: the name of its object, of its own name."""

    group: str
    scaffold: str
    use: str
    thing: Callable[[str], str]


_PLUGINS = {
    "dataset": _Kind(DATASETS, "dataset", _TABLE, scaffolds.class_name),
    "prompt": _Kind(PROMPTS, "prompt", _MODEL, str),
}
KINDS_OF_NEW = (*_PLUGINS, "template")


def new(root: Path, kind: str, name: str, *, package: bool, source: str | None) -> list[str]:
    """Make what kind says; give the lines to print.

    package: a plugin goes into a package of its own, as it does where root is no project's folder. source: the
    training template that is copied; None: the one of the project's method. Raises InputError where the name cannot
    be or is taken, with nothing changed.
    """
    if kind == "template":
        if package:
            raise InputError(Fault("--package", "a training template lies in a project", next_step="leave it out"))
        return _template(root, name, source)
    if source is not None:
        raise InputError(Fault("--from", f"a {kind} is no copy", next_step="leave it out"))
    scaffolds.check_plugin_name(name)
    if package or not (root / FILE).exists():
        return _package(root, _PLUGINS[kind], name, told=not package)
    return _in_project(root, _PLUGINS[kind], name)


def _in_project(root: Path, kind: _Kind, name: str) -> list[str]:
    project = load_project(root)
    _check_free(project, kind, name)
    file = f"plugins/{name}.py"
    scaffolds.write_new(root / file, _code(kind, name), file)
    table = (name, kind.use.format(name=name)) if kind.group == DATASETS else None
    try:
        put_in(root, file, table)
    except ProjectError:
        (root / file).unlink()
        raise
    if kind.group == DATASETS:
        return [
            f"{file} made; {FILE}: added to plugins, and as [datasets.{name}]",
            f"next: put your samples into {file}, then doit base dataset:{name} && tunemake show data --dataset {name}",
        ]
    return [
        f"{file} made; {FILE}: added to plugins",
        f'next: edit {file}, and choose it in {FILE} by model.prompt_template = "{name}", then tunemake check && doit',
    ]


def _check_free(project: Project, kind: _Kind, name: str) -> None:
    plugins = Plugins(project.root, project.plugins, Digests(project.root / DIGESTS))
    if there := plugins.all_of(kind.group, name):
        what = f"a {KINDS[kind.group]} of this name is there ({there[0].origin})"
        raise InputError(Fault(name, what, next_step="choose another name"))
    if kind.group == DATASETS and name in {dataset.name for dataset in project.datasets}:
        raise InputError(Fault(name, f"{FILE} has a dataset of this name", next_step="choose another name"))


def _code(kind: _Kind, name: str) -> str:
    values = {"name": name, "class_name": scaffolds.class_name(name)}
    return scaffolds.rendered(f"plugin/{kind.scaffold}.py.jinja", values)


def _package(home: Path, kind: _Kind, name: str, *, told: bool) -> list[str]:
    module = f"tunemake_{name}"
    distribution = module.replace("_", "-")
    if importlib.util.find_spec(module) is not None:
        raise InputError(Fault(name, f"a package {distribution} is installed", next_step="choose another name"))
    values: dict[str, Any] = {
        "name": name, "module": module, "distribution": distribution, "group": kind.group, "kind": KINDS[kind.group],
        "thing": kind.thing(name), "use": kind.use.format(name=name).rstrip(),
    }  # fmt: skip
    files: dict[str, scaffolds.Content] = {
        "pyproject.toml": scaffolds.rendered("package/pyproject.toml.jinja", values),
        "README.md": scaffolds.rendered("package/README.md.jinja", values),
        ".gitignore": scaffolds.rendered("package/gitignore.jinja", {}),
        f"src/{module}/__init__.py": _code(kind, name),
        f"src/{module}/py.typed": "",
        f"tests/test_{name}.py": scaffolds.rendered(f"package/test_{kind.scaffold}.py.jinja", values),
    }
    scaffolds.write_folder(home / distribution, files)
    why = ["no project here, so it is a package of its own"] if told else []
    return [
        *why,
        f"{distribution}/ made: {', '.join(files)}",
        f"next: cd {distribution} && pip install -e '.[test]' && pytest",
    ]


def _template(root: Path, name: str, source: str | None) -> list[str]:
    project = load_project(root)
    known = template_names(root)
    scaffolds.check_template_name(name, known)
    source = project.train["method"] if source is None else scaffolds.one_of("--from", source, known)
    file = f"templates/xtuner/{name}.py.jinja"
    note = (
        f"{{# A copy of {source}: renders the same until it is edited. docs/templates.md tells what it may use. #}}\n"
    )
    scaffolds.write_new(root / file, note + flat(f"xtuner/{source}.py.jinja", root), file)
    return [
        f"{file} made, a copy of {source}",
        f'next: edit {file}, and choose it in {FILE} by train.template = "{name}", then doit config',
    ]
