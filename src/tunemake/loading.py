"""A project's folder to its Builder, with all checked that can be checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunemake import graph, models
from tunemake.automatic import choices, resolved
from tunemake.building import Builder
from tunemake.contracts import Question
from tunemake.engines import xtuner
from tunemake.faults import Fault, InputError, ProjectError, did_you_mean
from tunemake.glance import look_at
from tunemake.launch_fit import devices
from tunemake.lock import FILE as LOCK
from tunemake.plugins import Plugins
from tunemake.process import RunStage, run_stage
from tunemake.project import FILE, Dataset, Project, load_variants, machine_environment
from tunemake.questions import questions_of
from tunemake.schema import Path_, dotted
from tunemake.stage import Stage
from tunemake.store import Store

Found = list[tuple[Path_, Fault]]
_ASKING = {"questions", "references", "base", "divergence"}  # what a probe needs that asks questions
_MORE_THAN_THE_MODEL = {"base", "divergence", "held_out"}


def load_builder(root: Path, *, alone: bool = False, run: RunStage = run_stage) -> Builder:
    """Read the project in a folder.

    alone: with a store in its own build/ and no other, whatever it names. run: runs its stages.
    Raises ProjectError with every fault that project.toml, the files that it names and the plugins show without work.
    """
    try:
        return _builder(root, alone, run)
    except OSError as error:  # a folder that may not be entered, a name that no file can have
        name = os.path.relpath(error.filename, root) if error.filename else FILE
        raise ProjectError(Fault(name, f"cannot be read: {error.strerror}")) from error


def _builder(root: Path, alone: bool, run: RunStage) -> Builder:  # noqa: FBT001
    variants = [replace(project, store={}) if alone else project for project in load_variants(root)]
    _raise_all(variants[0], _store(variants[0]))
    store = Store(root, variants[0].store.get("path"))
    plugins = Plugins(root, variants[0].plugins, store.digests)
    made: dict[str, list[Stage]] = {}
    projects, names = [], [project.variant.name for project in variants]
    whole = [_training_template(declared) for declared in variants]
    look_at(root / LOCK)
    before = choices(root)
    chosen = resolved([project for project, _, _ in whole], machine_environment())
    for project, (_, sources, makes_tokens) in zip(chosen, whole, strict=True):
        _check(project, plugins)
        template = plugins.prompt_template(project.model["prompt_template"])
        made[project.variant.name] = graph.stages(
            project, plugins.needs_base, template, sources, names, makes_tokens=makes_tokens, choices=before
        )
        _raise_all(project, _training_config(made[project.variant.name]))
        projects.append(project)
    return Builder(projects, graph.combined(made), plugins, store, run)


def _check(project: Project, plugins: Plugins) -> None:
    _raise_all(project, _plugin_files(project, plugins))  # without them, nothing can be said of the datasets
    faults = [*_model(project), *_batch(project), *_evaluation(project, plugins), *_prompt_template(project, plugins)]
    faults += _merge(project)
    for dataset in project.datasets:
        faults += _dataset(project, plugins, dataset)
    _raise_all(project, faults)


def _raise_all(project: Project, found: Found) -> None:
    if found:
        raise ProjectError(sorted(project.placed(found), key=lambda fault: (fault.line or 0, fault.column or 0)))


def _training_template(project: Project) -> tuple[Project, list[str], str | None]:
    """Give the project with the values that its training template holds itself, and the files this is made of.

    The last: why a training by it makes its tokens itself, or None.
    """
    try:
        template = xtuner.config_template(project.train)
        sources = xtuner.config_sources(template, project.root)
        own = xtuner.own_values(template)
        makes_tokens = xtuner.makes_tokens(template, project.root)
    except InputError as error:
        _raise_all(project, _at(("train", "template"), error.faults))
        raise
    return project.with_values(own), sources, makes_tokens


def _training_config(made: Iterable[Stage]) -> Found:
    """Tell what one of XTuner's own configs has no place for; a template of Jinja's is too slow to render each time."""
    try:
        xtuner.check_places(next(stage.parameters for stage in made if stage.kind == "config"))
    except InputError as error:
        return [found for fault in error.faults for found in _at(tuple(fault.where.split(".")), [fault])]
    return []


def _store(project: Project) -> Found:
    shared = Store(project.root, project.store.get("path")).shared
    if shared is None:
        return []
    at: Path_ = ("store", "path")
    if shared.is_relative_to((project.root / "build").resolve()):
        return _at(at, [Fault(str(shared), "lies in build/", next_step="leave store.path out, or name another folder")])
    try:
        shared.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _at(at, [Fault(str(shared), f"cannot be a store of artifacts: {error.strerror}")])
    return [] if os.access(shared, os.W_OK) else _at(at, [Fault(str(shared), "cannot be written to")])


def _plugin_files(project: Project, plugins: Plugins) -> Found:
    found: Found = []
    for number, file in enumerate(project.plugins):
        at: Path_ = ("plugins", number)
        if missing := _file(project, at, file):
            found += missing
            continue
        try:
            plugins.import_own(file)
        except InputError as error:
            found += _at(at, error.faults)
    return found


def _model(project: Project) -> Found:
    at: Path_ = ("model", "source")
    try:
        source = models.parse_source(project.model["source"])
    except InputError as error:
        return _at(at, error.faults)
    folder = project.root / source.name
    if source.kind == "folder" and folder.resolve().is_relative_to(project.root.resolve() / "build"):
        step = "copy the model to a folder of its own"
        return _at(at, [Fault(source.name, "lies in build/, where it changes with each build", next_step=step)])
    look_at(folder)
    if source.kind != "folder" or folder.is_dir():
        return []
    return _at(at, [Fault(source.name, "no such folder", next_step=models.where_else(folder))])


def _batch(project: Project) -> Found:
    """Tell of an effective batch that the training's devices cannot part evenly."""
    whole, gpus = project.train.get("effective_batch", 0), devices(project.launch)
    if whole % gpus == 0:
        return []
    fault = Fault("launch.gpus", f"{gpus} devices cannot part it evenly", f"a multiple of {gpus}", str(whole))
    return _at(("train", "effective_batch"), [fault])


def _merge(project: Project) -> Found:
    method, at = project.train["method"], ("merge", "base")
    if project.merge["base"] == "original" or method == "qlora":
        return []
    what = f"method {method} trains against the base's own weights, and no others"
    return _at(at, [Fault(dotted(at), what, 'train.method = "qlora", or "original"', project.merge["base"])])


def _dataset(project: Project, plugins: Plugins, dataset: Dataset) -> Found:
    at: Path_ = ("datasets", dataset.name, "parameters")
    try:
        wrong = plugins.parameter_faults(dataset.generator, dataset.parameters, at)
    except InputError as error:
        return _at(("datasets", dataset.name, "generator"), error.faults)
    try:
        read = [] if wrong else plugins.inputs(dataset.generator, dataset.parameters)
    except InputError as error:
        return _at(at, error.faults)
    return wrong + [fault for path in read for fault in _file(project, at, path)]


def _prompt_template(project: Project, plugins: Plugins) -> Found:
    try:
        plugins.prompt_template(project.model["prompt_template"])
    except InputError as error:
        return _at(("model", "prompt_template"), error.faults)
    return []


def _evaluation(project: Project, plugins: Plugins) -> Found:
    told = project.evaluate or {"probe": []}
    found = _probes(project, plugins, ("evaluate", "probe"), told["probe"])
    names = [probe["name"] for probe in told["probe"]]
    for number, name in enumerate(told.get("order", [])):
        if name not in names:
            step = did_you_mean(name, names) or "known: " + ", ".join(names)
            found += _at(("evaluate", "order", number), [Fault(name, "no such probe", next_step=step)])
    stopping = project.train.get("early_stop", {"probe": []})["probe"]
    at: Path_ = ("train", "early_stop", "probe")
    found += _probes(project, plugins, at, stopping)
    for number, probe in enumerate(stopping):
        if not {"at_least", "at_most"} & probe.keys():
            found += _at((*at, number), [Fault(probe["name"], "no bound", expected="at_least or at_most")])
    return found


def _probes(project: Project, plugins: Plugins, at: Path_, probes: Sequence[Mapping[str, Any]]) -> Found:
    names = [probe["name"] for probe in probes]
    found: Found = []
    for number, probe in enumerate(probes):
        if names.index(probe["name"]) != number:
            found += _at((*at, number, "name"), [Fault(probe["name"], "there are two probes of this name")])
        found += _probe(project, plugins, (*at, number), probe)
    return found


def _probe(project: Project, plugins: Plugins, at: Path_, probe: Mapping[str, Any]) -> Found:
    try:
        found = plugins.probe_faults(probe["kind"], probe["parameters"], (*at, "parameters"))
        made = plugins.probe(probe["kind"])
        needs = set(made.needs)
    except InputError as error:
        return _at((*at, "kind"), error.faults)
    prompts = probe.get("prompts")
    if prompts is None:
        if needs & _ASKING:
            found += _at(at, [Fault(probe["name"], "prompts: missing", expected="a list of prompts, or a file")])
    elif isinstance(prompts, str):
        faults = _text_file(project, (*at, "prompts"), prompts)
        found += faults or _questions(project, (*at, "prompts"), prompts, needs)
    elif "references" in needs:
        found += _references(at, questions_of(project.root, prompts, probe["name"]))
    found += _bounds(at, probe, made.unit)
    if "held_out" in needs and not project.data["held_out"]:
        found += _at(at, [Fault(probe["name"], "needs held-out samples", expected="data.held_out above 0")])
    if at[0] == "train" and needs & _MORE_THAN_THE_MODEL:
        what = f"{probe['kind']} needs more than the model in training"
        found += _at((*at, "kind"), [Fault(probe["name"], what, expected="a probe of answers, such as contains")])
    return found


def _bounds(at: Path_, probe: Mapping[str, Any], unit: str) -> Found:
    """Tell of bounds that no score can keep to. unit: of the probe's score."""
    least, most = probe.get("at_least"), probe.get("at_most")
    found: Found = []
    if least is not None and most is not None and least > most:
        what = "no score can keep to both bounds"
        found += _at((*at, "at_least"), [Fault(probe["name"], what, f"at most {most:g}", f"{least:g}")])
    for key, bound in (("at_least", least), ("at_most", most)):
        if bound is not None and unit.startswith("share") and not 0 <= bound <= 1:
            found += _at((*at, key), [Fault(probe["name"], f"a {unit} lies between 0 and 1", got=f"{bound:g}")])
    return found


def _questions(project: Project, at: Path_, file: str, needs: set[str]) -> Found:
    try:
        questions = questions_of(project.root, file, file)
    except InputError as error:
        return _at(at, error.faults)
    return _references(at, questions) if "references" in needs else []


def _references(at: Path_, questions: Iterable[Question]) -> Found:
    lacking = [question.prompt for question in questions if question.reference is None]
    expected = '{ prompt = "…", reference = "…" } for each'
    return _at(at, [Fault("prompts", f"no reference for {lacking[0][:60]!r}", expected)]) if lacking else []


def _text_file(project: Project, at: Path_, file: str) -> Found:
    if missing := _file(project, at, file):
        return missing
    try:
        (project.root / file).read_bytes().decode()
    except UnicodeDecodeError as error:
        return _at(at, [Fault(file, f"not UTF-8 at byte {error.start}", next_step="save it as UTF-8")])
    return []


def _file(project: Project, at: Path_, file: str | Path) -> Found:
    path = project.root / file
    look_at(path)
    if path.is_file():
        return []
    told = path.relative_to(project.root) if path.is_relative_to(project.root) else path
    return _at(at, [Fault(str(told), "no such file")])


def _at(path: Path_, faults: Iterable[Fault]) -> Found:
    """Tell faults of what a value names as faults of the value."""
    name = dotted(path)
    found: Found = []
    for fault in faults:
        what = f"{name}: {fault.what}" if fault.where == name else f"{name}: {fault.where}: {fault.what}"
        found.append((path, replace(fault, where=FILE, what=what)))
    return found
