"""The part that tunemake adds to one of XTuner's built-in configs: what its builds need beside what a user asks."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from tunemake.engines.config_templates import iterations
from tunemake.engines.python_edits import PythonText
from tunemake.engines.xtuner_edits import warms_up

MARK = "added by tunemake"
_BANNER = f"""
#######################################################################
#                         {MARK}                           #
#######################################################################
"""


def additions(config: PythonText, values: Mapping[str, Any]) -> str:
    """Give the lines that follow an edited config.

    config: it, with its tree as XTuner wrote it. values: those of the config stage. What the lines change: tokenizer,
    custom_hooks, the data, and where it is not so already visualizer, randomness, trust_remote_code
    and the type of a warm-up.
    """
    rises = warms_up(config, values)
    extra = [*(["Trackers"] if values["train"]["trackers"] else []), *(["WarmUp"] if rises else [])]
    ours = ["AnswersHook", "MetricsHook", "SeedHook", "StopHook", *extra, "load_tokenizer"]
    lines = [f"from tunemake.engines.xtuner_hooks import {', '.join(ours)}"]
    lines += ["from tunemake.engines.early_stop import EarlyStopHook"] if "early_stop" in values["train"] else []
    lines += ["from tunemake.engines.xtuner_data import token_rows"] if values["tokens_path"] else []
    lines += ["", *([f"# Chosen once, and kept in tunemake.lock: {values['why']}"] if "why" in values else [])]
    lines += ["# The beginning-of-sequence token once, or not at all."]
    lines += ['tokenizer["type"] = load_tokenizer', 'tokenizer["prompt_template"] = prompt_template']
    if not values["trust_remote_code"]:
        lines += ["# XTuner itself always says True; tunemake refuses such a folder before."]
        lines += ['tokenizer["trust_remote_code"] = model["llm"]["trust_remote_code"] = False']
    lines += _hooks(config, values)
    if rises:
        lines += ['param_scheduler[0]["type"] = WarmUp  # over two iterations at least']
    if values["tokens_path"]:
        lines += ["# Made before, by the values above: what process_hf_dataset would make of them."]
        lines += [f"{_data(config)}.clear()"]
        lines += [f"{_data(config)}.update(type=token_rows, path={values['tokens_path']!r})"]
    else:
        lines += [f'{_data(config)}["map_num_proc"] = None  # this process, not 32 of them']
    if "project.seed" not in values["declared"]:
        lines += [f'randomness["seed"] = {values["seed"]}  # a build comes out the same twice']
    if trackers := values["train"]["trackers"]:
        lines += [f"visualizer = dict(type=Trackers, names={trackers!r}, project={values['project']!r})"]
    elif config.text_of(config.assigned("visualizer")) not in {"", "None"}:
        lines += ["visualizer = None"]
    return _BANNER + "\n".join(lines) + "\n"


def _hooks(config: PythonText, values: Mapping[str, Any]) -> Iterator[str]:
    answers = values["train"]["answers"]
    prompts = "evaluation_inputs" if config.assigned("evaluation_inputs") else repr(answers["prompts"])
    every = "evaluation_freq" if config.assigned("evaluation_freq") else iterations(answers["every"])
    made = (
        f"dict(\n    type=AnswersHook,\n    tokenizer=tokenizer,\n    prompts={prompts},\n"
        f"    prompt_template=prompt_template,\n    every={every},\n    max_new_tokens={answers['max_new_tokens']},\n)"
    )
    number = _stock_answers(config)
    if number is None:
        yield f"custom_hooks.append({made})"
    else:
        yield "# Instead of EvaluateChatHook, which generates before the training and at every checkpoint too."
        yield f"custom_hooks[{number}] = {made}"
    every_line = values["train"]["log_every"] if "train.log_every" in values["declared"] else 1
    yield f"custom_hooks.append(dict(type=MetricsHook, every={every_line}))"
    yield "custom_hooks += [dict(type=SeedHook), dict(type=StopHook)]"
    if stop := values["train"].get("early_stop"):
        yield (
            f"custom_hooks.append(dict(\n    type=EarlyStopHook,\n    tokenizer=tokenizer,\n"
            f"    prompt_template=prompt_template,\n    probes={stop['probe']!r},\n    plugins={values['plugins']!r},\n"
            f"    every={iterations(stop['every'])},\n    checks={stop['checks']},\n"
            f"    max_new_tokens={stop['max_new_tokens']},\n))"
        )


def _stock_answers(config: PythonText) -> int | None:
    hooks = config.assigned("custom_hooks")
    for number, hook in enumerate(hooks.elts if isinstance(hooks, ast.List) else []):
        if config.text_of(config.keyword(hook, "type")) == "EvaluateChatHook":
            return number
    return None


def _data(config: PythonText) -> str:
    """Give the expression of the training data's table."""
    node = config.at("train_dataloader.dataset")
    text = 'train_dataloader["dataset"]'
    if isinstance(node, ast.Name):
        text, node = node.id, config.followed(node)
    items = config.keyword(node, "datasets")
    if items is None:
        return text
    listed = config.followed(items)
    first = listed.elts[0] if isinstance(listed, ast.List) else None
    return first.id if isinstance(first, ast.Name) else f'{text}["datasets"][0]'
