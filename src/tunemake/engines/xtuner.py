"""The only module that knows XTuner: its config, its command, its checkpoints. Imports nothing heavy."""

from __future__ import annotations

import ast
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake import prompts, schema, shelves
from tunemake.engines import config_templates, sizing, xtuner_configs, xtuner_tokens
from tunemake.engines.launching import Launch
from tunemake.engines.python_edits import PythonText
from tunemake.engines.xtuner_additions import additions
from tunemake.engines.xtuner_edits import edit_config
from tunemake.faults import Fault, InputError
from tunemake.json_lines import read_json_lines

CONFIG, DECIDES, EXTENDS = "train.py", "decides.py", "extends.py"
TOKENS = "tokens.arrow"
METHODS = ("full", "lora", "qlora")
ROOT = "TUNEMAKE_ROOT"  # the environment variable that names the project's folder to a training
PROCESS = "tunemake.engines.xtuner_process"  # the module that runs XTuner
METRICS, ANSWERS, STOPPED, LAUNCHER = "metrics.jsonl", "answers.jsonl", ".stopped", ".launcher"

_ALONE = Launch()
_OPTIMIZER = "_optim_states.pt"  # how DeepSpeed names each process's part of the optimizer


def config_template(train: Mapping[str, Any]) -> str:
    """Give the name of the template that a training table asks for: its own, or the one of its method.

    Raises InputError where it asks for the one of another method.
    """
    method, template = train["method"], str(train.get("template", train["method"]))
    if template in METHODS and template != method:
        raise InputError(Fault("train.template", "the template of another method", expected=method, got=template))
    return template


def config_sources(template: str, project: Path) -> list[str]:
    """List the files that a template is made of, the main one first: templates/xtuner/…, or one of XTuner's own.

    Raises InputError for a template that is not there or cannot serve.
    """
    if template.startswith(xtuner_configs.PREFIX):
        place = xtuner_configs.builtin_config(template.removeprefix(xtuner_configs.PREFIX))
        return [f"{xtuner_configs.PACKAGE}/{place.inside}"]
    return [f"templates/{file}" for file in config_templates.template_files(template, project)]


def known_templates(project: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Give each template whose name holds the pattern, in any case, and what is to be known of it, or "".

    Raises InputError where XTuner is not installed, after those that need no XTuner.
    """
    wanted = pattern.lower()
    for name, own in config_templates.template_names(project).items():
        if wanted in name.lower():
            yield name, "the project's own" if own else "ships"
    for name, places in xtuner_configs.builtin_configs().items():
        for place in places if wanted in name.lower() else []:
            known = name if len(places) == 1 else place.inside.removesuffix(".py")
            why = xtuner_configs.refusal(PythonText(place.path.read_text("utf-8")))
            yield xtuner_configs.PREFIX + known, "" if why is None else f"cannot serve: {why}"


def is_source(name: str) -> bool:
    """Say whether a file's name is one that config_sources gives, rather than one of the project's folder."""
    return name.startswith(("templates/", xtuner_configs.PACKAGE + "/"))


def source_path(source: str, project: Path) -> Path:
    """Give the path of one of these files."""
    if source.startswith(xtuner_configs.PACKAGE):
        return xtuner_configs.source_path(source)
    return shelves.find("templates", source.removeprefix("templates/"), project)


def own_values(template: str) -> dict[str, Any]:
    """Give the values that a template of XTuner's holds itself, by names as train.lr; {} for all others.

    Raises InputError where there is none of that name.
    """
    if not template.startswith(xtuner_configs.PREFIX):
        return {}
    place = xtuner_configs.builtin_config(template.removeprefix(xtuner_configs.PREFIX))
    return xtuner_configs.own_values(PythonText(place.path.read_text("utf-8")))


def makes_tokens(template: str, project: Path) -> str | None:
    """Say why a template's training makes its tokens itself, or None where it reads those that were made before."""
    if template.startswith(xtuner_configs.PREFIX):
        place = xtuner_configs.builtin_config(template.removeprefix(xtuner_configs.PREFIX))
        return xtuner_tokens.makes_tokens(PythonText(place.path.read_text("utf-8")))
    known = config_templates.names_value(template, project, "tokens_path")
    return None if known else f"templates/xtuner/{template}.py.jinja names no tokens_path"


def render_config(values: Mapping[str, Any], project: Path | None) -> str:
    """Render a complete XTuner config from values (see stages/config.py for their names); what is open, as off.

    Raises InputError where the template is wrong: undefined names, syntax, or Python that does not parse; and for a
    config of XTuner's own that has no place for a value.
    """
    values = sizing.settled(values, {})
    if values["template"].startswith(xtuner_configs.PREFIX):
        return _edited_config(values)
    return config_templates.render(
        values["template"],
        {
            **values, "prompt_template": prompts.as_xtuner(values["prompt_template"]),
            "autocast": autocast(values["train"], values["template"]),
        }, project,
    )  # fmt: skip


def autocast(train: Mapping[str, Any], template: str) -> bool:
    """Say whether a training's products are of another type than its weights.

    So are those of weights that the optimizer itself changes, those in float16, whose gradients are scaled, and those
    of XTuner's own configs.
    """
    changed = train["method"] == "full" and "deepspeed" not in train
    stock = template.startswith(xtuner_configs.PREFIX)
    return train["precision"] != "float32" and (stock or changed or train["precision"] == "float16")


def training_config(values: Mapping[str, Any], project: Path | None) -> tuple[str, str | None]:
    """Render the config that trains; give it, and why it makes its tokens itself where it was to read them.

    It was to where values name a tokens_path. Raises InputError as render_config does.
    """
    whole = render_config(values, project)
    if not values["tokens_path"] or values["template"].startswith(xtuner_configs.PREFIX):
        return whole, None
    plain = render_config({**values, "tokens_path": ""}, project)
    why = xtuner_tokens.unlike(PythonText(plain), PythonText(whole), values)
    return (whole, None) if why is None else (plain, why)


def check_places(values: Mapping[str, Any]) -> None:
    """Raise InputError for what a config of XTuner's own has no place for; nothing for other templates.

    The prompt template counts for nothing here: what it says may be known only when the base model is there.
    """
    if values["template"].startswith(xtuner_configs.PREFIX):
        name, values = values["template"].removeprefix(xtuner_configs.PREFIX), sizing.settled(values, {})
        edit_config(name, xtuner_configs.builtin_config(name).path.read_text("utf-8"), values, told=False)


def _edited_config(values: Mapping[str, Any]) -> str:
    name = values["template"].removeprefix(xtuner_configs.PREFIX)
    source = xtuner_configs.builtin_config(name).path.read_text("utf-8")
    config = edit_config(name, source, values)
    text = config.edited()
    head = f"# XTuner's {name} with the values of project.toml, and what tunemake needs at its end.\n"
    whole = head + text + additions(config, values)
    ast.parse(whole)  # else one of our own edits is wrong
    return whole


def deciding_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values with all that only decides how training runs set to their defaults, and names to none.

    A config rendered with them changes exactly when the weights may; what model and data hold is digested apart.
    """
    shape = schema.load_schema("project.schema.json")["properties"]["train"]
    # Without a path to tokens a config makes them itself, by XTuner's own function: what comes out is the same.
    names = dict.fromkeys(("project", "model", "model_path", "data_path", "tokens_path"), "")
    running = {f"train.{key}" for key in schema.parted("run", shape["properties"], shape)[1]}
    declared = [place for place in values["declared"] if ".".join(place.split(".")[:2]) not in running]
    train = {**schema.reset("run", values["train"], shape), "activation_checkpointing": False}  # not "auto": it is open
    template = {**values["prompt_template"], "stop_words": []}  # training ends nothing by them
    told = {"prompt_template": template, "train": train, "declared": declared, "deciding": True}
    return {name: value for name, value in {**values, **names, **told}.items() if name != "why"}


def without_length(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values with the training's length set to one step, whatever it is."""
    train = {name: value for name, value in values["train"].items() if name not in {"epochs", "steps"}}
    declared = [name for name in values["declared"] if name not in {"train.epochs", "train.steps"}]
    return {**values, "train": {**train, "steps": 1}, "declared": declared}


def train_command(config: Path, work: Path, resume: Path | None, launch: Launch = _ALONE) -> list[str]:
    """Give the command that trains in `work`, from a checkpoint or from the start."""
    arguments = ["train", str(config), "--work-dir", str(work)]
    arguments += ["--resume", str(resume)] if resume is not None else []
    return launch.command(PROCESS, arguments, work / LAUNCHER)


def checkpoints(folder: Path) -> list[Path]:
    """List a folder's checkpoints, iter_N.pth, by N; DeepSpeed's are folders."""
    found = [path for path in folder.glob("iter_*.pth") if re.fullmatch(r"iter_\d+\.pth", path.name)]
    return sorted(found, key=iteration_of)


def iteration_of(checkpoint: Path) -> int:
    """Give N of iter_N.pth."""
    return int(checkpoint.stem.removeprefix("iter_"))


def stopped_early(folder: Path, told: Mapping[str, Any]) -> int | None:
    """Give the iteration at which enough checks in a row had met their probes; None where they had not.

    told: train.early_stop.
    """
    last = read_json_lines(folder / "early_stop.jsonl")[-told["checks"] :]
    enough = len(last) == told["checks"] and all(line["met"] for line in last)
    return int(last[-1]["iteration"]) if enough else None


def newest_whole_checkpoint(folder: Path, processes: int = 1) -> tuple[Path | None, list[Path]]:
    """Find the newest checkpoint that is whole; set torn ones aside as *.torn and name them.

    A checkpoint is a zip file whose directory stands at its end and which keeps a CRC of every member: one cut short
    or overwritten is seen without unpickling it. DeepSpeed's is a folder of such, in which each of the processes has
    its part.
    """
    torn: list[Path] = []
    for checkpoint in reversed(checkpoints(folder)):
        if _is_whole(checkpoint, processes):
            return checkpoint, torn
        aside = checkpoint.with_suffix(".pth.torn")
        checkpoint.rename(aside)
        torn.append(aside)
    return None, torn


def remove_litter(folder: Path, last: Path) -> None:
    """Remove what mmengine leaves beside the checkpoints: a copy of the config and a folder of logs a run.

    They repeat the config and the log that are kept, with this machine's paths and times in them. Checkpoints that an
    interrupt saved beside the regular ones go too; last: the one that stays in any case.
    """
    for name in (CONFIG, "zero_to_fp32.py"):  # the latter a tool of DeepSpeed's
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / LAUNCHER, ignore_errors=True)
    for path in folder.glob("*.torn"):  # set aside when a killed training went on
        _remove(path)
    for path in folder.glob("*_*"):
        if re.fullmatch(r"\d{8}_\d{6}", path.name):
            shutil.rmtree(path)
    stopped = folder / STOPPED
    for name in stopped.read_text("utf-8").splitlines() if stopped.exists() else []:
        if name != last.name and re.fullmatch(r"iter_\d+\.pth", name):
            _remove(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(checkpoint: Path, processes: int) -> bool:
    if checkpoint.is_dir():
        parts = list(checkpoint.glob("*.pt"))
        states = sum(part.name.endswith(_OPTIMIZER) for part in parts)
        return states == processes < len(parts) and all(_is_whole(part, 1) for part in parts)
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # noqa: BLE001 - damaged bytes mean anything to zipfile, and it raises as much
        return False


def chat_command(folder: str, template: Mapping[str, Any]) -> str | None:
    """Give the command by which XTuner's own chat talks to a model folder; None where it lacks the prompt template.

    XTuner's default is float16 whatever the model, which most CPUs only emulate.
    """
    wanted = prompts.from_xtuner(prompts.as_xtuner(template))
    known = xtuner_configs.prompt_templates()
    same = [name for name, form in known.items() if prompts.from_xtuner(form) == wanted]
    return f"tunemake xtuner chat {folder} --prompt-template {same[0]} --torch-dtype auto" if same else None
