"""The values that project.toml declares, put into one of XTuner's built-in configs as one does by hand."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tunemake import prompts
from tunemake.engines import xtuner_configs as configs
from tunemake.engines.config_templates import iterations
from tunemake.engines.python_edits import PythonText
from tunemake.engines.xtuner_weights import edit_weights
from tunemake.faults import Fault, InputError

_Edit = Callable[[PythonText, Any], bool]
# What is no value of a training config's, or is put into it whether it is declared or not.
_ELSEWHERE = {
    "data.held_out", "data.format", "train.engine", "train.template", "train.method", "train.precision",
    "train.effective_batch",
    "train.answers.max_new_tokens", "train.lora.r", "train.lora.alpha", "train.lora.dropout", "train.lora.targets",
}  # fmt: skip


def edit_config(name: str, source: str, values: Mapping[str, Any], *, told: bool = True) -> PythonText:
    """Put a project's values into the source of a built-in config; give it with all edits to come.

    values: those of the config stage; `declared` names the ones that project.toml gives. All others stay the
    config's own. told: the prompt template's text is known, and put in. Raises InputError for a config that cannot
    train on chat samples, and for every value that it has no place for.
    """
    config = PythonText(source)
    if (why := configs.refusal(config)) is not None:
        step = "see tunemake configs for those that can"
        raise InputError(Fault("train.template", f"{name} {why}, not on chat samples", next_step=step))
    _set_data(config, values)
    config.set_name("pretrained_model_name_or_path", repr(values["model_path"]))
    if told:
        _set_prompt_template(config, values["prompt_template"])
    lost = [*edit_weights(config, values)]
    for place in sorted(name for name in values["declared"] if is_edited(name)):
        edit = _EDITS.get(place)
        if edit is None or not edit(config, value_of(values, place)):
            lost.append(place)
    if not warms_up(config, values):
        _warmup(config, 0)
    if lost:
        raise InputError([Fault(place, f"{name} has no place for it", next_step=_way_out(place)) for place in lost])
    return config


def _way_out(place: str) -> str:
    if place == "train.epochs":
        return "it counts steps: declare train.steps"
    if place.startswith("train.lora."):
        return 'declare train.method = "lora", or leave it out'
    return "leave it out, or take a template of your own"


def warms_up(config: PythonText, values: Mapping[str, Any]) -> bool:
    """Say whether the learning rate rises first; of one or two iterations a warm-up would leave nothing."""
    train = values["train"]
    few = "steps" in train and train["steps"] * train["accumulation"] <= 2  # noqa: PLR2004
    return configs.warmup_call(config) is not None and train["warmup"] > 0 and not few


def value_of(values: Mapping[str, Any], place: str) -> Any:
    """Give the value of a name such as train.lora.r."""
    if place == "project.seed":
        return values["seed"]
    found: Any = values
    for step in place.split("."):
        found = found[step]
    return found


def _set_data(config: PythonText, values: Mapping[str, Any]) -> None:
    """Let the config read the project's samples: one JSON file in OpenAI's chat format."""
    data = configs.dataset(config)
    read = config.followed(config.keyword(data, "dataset"))
    files, path = config.keyword(read, "data_files"), repr(values["data_path"])
    if isinstance(config.followed(files), ast.List) and isinstance(files, ast.Name):
        config.set_name(files.id, f"[{path}]")
    else:
        _set_path(config, data, read, path)
    if config.text_of(config.keyword(data, "type")) != "process_hf_dataset":
        config.set_keyword(data, "type", "process_hf_dataset")
        config.imports("xtuner.dataset", "process_hf_dataset")
    config.set_keyword(data, "dataset_map_fn", "openai_map_fn")
    config.imports("xtuner.dataset.map_fns", "openai_map_fn")
    if not isinstance(config.keyword(data, "template_map_fn"), ast.Call):
        config.set_keyword(data, "template_map_fn", "dict(type=template_map_fn_factory, template=prompt_template)")
        config.imports("xtuner.dataset.map_fns", "template_map_fn_factory")
    _take_out_others(config)


def _set_path(config: PythonText, data: ast.expr | None, read: ast.expr | None, path: str) -> None:
    names = (
        config.keyword(config.keyword(read, "data_files"), "train"), config.keyword(read, "path"),
        config.keyword(read, "dataset_name"),
    )  # fmt: skip
    name = next((node.id for node in names if isinstance(node, ast.Name)), None)
    if name is not None and config.set_name(name, path):
        path = name
    config.set_keyword(data, "dataset", f'dict(type=load_dataset, path="json", data_files=dict(train={path}))')
    config.imports("datasets", "load_dataset")


def _take_out_others(config: PythonText) -> None:
    whole = config.followed(config.at("train_dataloader.dataset"))
    listed = config.followed(config.keyword(whole, "datasets"))
    if isinstance(listed, ast.List):
        for other in listed.elts[1:]:
            config.drop_item(listed, other)


def _set_prompt_template(config: PythonText, template: Mapping[str, Any]) -> None:
    wanted = _whole(prompts.as_xtuner(template))
    known = {name: _whole(table) for name, table in configs.prompt_templates().items()}
    if known.get(configs.prompt_template(config) or "") == wanted:
        return
    same = [name for name, table in known.items() if table == wanted]
    items = ", ".join(f"{key}={value!r}" for key, value in prompts.as_xtuner(template).items())
    config.set_name("prompt_template", f"PROMPT_TEMPLATE.{same[0]}" if same else f"dict({items})")


def _whole(template: Mapping[str, Any]) -> dict[str, Any]:
    return {"SYSTEM": "", "SUFFIX": "", "SUFFIX_AS_EOS": False, "SEP": "", "STOP_WORDS": [], **template}


def _kept(path: str, text: Callable[[Any], str] = repr) -> _Edit:
    """Set what a keyword such as train_dataloader.batch_size comes to, wherever the config keeps it."""
    calls, _, name = path.rpartition(".")
    return lambda config, value: config.set_where_kept(config.followed(config.at(calls)), name, text(value))


def _of_data(name: str) -> _Edit:
    return lambda config, value: config.set_where_kept(configs.dataset(config), name, repr(value))


def _or_added(name: str, text: Callable[[Any], str]) -> _Edit:
    """Set a name that the config has; of one that it has not, the part that tunemake adds holds the value."""
    return lambda config, value: config.set_name(name, text(value)) or True


def _epochs(config: PythonText, value: int) -> bool:
    run = config.assigned("train_cfg")
    return config.keyword(run, "max_epochs") is not None and config.set_where_kept(run, "max_epochs", repr(value))


def _steps(config: PythonText, value: int) -> bool:
    """Count iterations where the config counts epochs."""
    run = config.assigned("train_cfg")
    if config.keyword(run, "max_iters") is not None:
        return config.set_where_kept(run, "max_iters", iterations(value))
    if not config.set_name("max_epochs", iterations(value)):
        return False
    config.rename("max_epochs", "max_iters")
    config.drop_keyword(run, "max_epochs")
    config.set_keyword(run, "max_iters", "max_iters")
    rising, share = configs.warmup_call(config), configs.warmup_name(config)
    for call in configs.schedulers(config):
        config.set_keyword(call, "by_epoch", "False")
        config.drop_keyword(call, "convert_to_iter_based")
        if rising is not None and share is not None:
            config.set_keyword(call, "end" if call is rising else "begin", f"max(2, round({share} * max_iters))")
    return True


def _schedule(config: PythonText, value: str) -> bool:
    calls = configs.schedulers(config)
    kind, options = {
        "cosine": ("CosineAnnealingLR", {"eta_min": "0.0"}),
        "linear": ("LinearLR", {"start_factor": "1.0", "end_factor": "0.0"}),
        "constant": ("ConstantLR", {"factor": "1.0"}),
    }[value]
    if not calls:
        return False
    last = calls[-1]
    if config.text_of(config.keyword(last, "type")).strip("'") == kind:
        return True
    config.set_keyword(last, "type", kind)
    config.imports("mmengine.optim", kind)
    config.drop_keyword(last, "eta_min")
    for name, text in options.items():
        config.set_keyword(last, name, text)
    return True


def _warmup(config: PythonText, value: float) -> bool:
    rising, name = configs.warmup_call(config), configs.warmup_name(config)
    if rising is None:
        return not value
    if value:
        return name is not None and config.set_name(name, repr(value))
    listed = config.assigned("param_scheduler")
    assert isinstance(listed, ast.List)
    config.drop_item(listed, rising)
    return config.set_keyword(configs.schedulers(config)[-1], "begin", "0")


_EDITS: Mapping[str, _Edit] = {
    "project.seed": _kept("randomness.seed"),
    "data.max_length": _of_data("max_length"),
    "data.packing": _of_data("pack_to_max_length"),
    "train.epochs": _epochs,
    "train.steps": _steps,
    "train.batch_size": _kept("train_dataloader.batch_size"),
    "train.accumulation": _kept("optim_wrapper.accumulative_counts"),
    "train.lr": _kept("optim_wrapper.optimizer.lr"),
    "train.schedule": _schedule,
    "train.warmup": _warmup,
    "train.weight_decay": _kept("optim_wrapper.optimizer.weight_decay"),
    "train.max_norm": _kept("optim_wrapper.clip_grad.max_norm"),
    "train.activation_checkpointing": _kept("model.use_activation_checkpointing"),
    "train.deterministic": _kept("randomness.deterministic"),
    "train.num_workers": _kept("train_dataloader.num_workers"),
    "train.log_every": _kept("default_hooks.logger.interval"),
    "train.checkpoints.every": _kept("default_hooks.checkpoint.interval", iterations),
    "train.checkpoints.keep": _kept("default_hooks.checkpoint.max_keep_ckpts"),
    "train.answers.every": _or_added("evaluation_freq", iterations),
    "train.answers.prompts": _or_added("evaluation_inputs", repr),
}


def is_edited(name: str) -> bool:
    """Say whether a value of project.toml, when declared, must find its place by one of the edits here."""
    # xtuner_additions puts the first two at the end, and DeepSpeed has a file of its own.
    beside = name.startswith(("train.trackers", "train.early_stop", "train.deepspeed"))
    ours = name.startswith(("data.", "train.")) and name not in _ELSEWHERE and not beside
    return name == "project.seed" or ours


def edits() -> Collection[str]:
    """Name the values that there is an edit for."""
    return _EDITS.keys()
