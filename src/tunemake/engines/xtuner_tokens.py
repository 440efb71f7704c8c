"""Whether a config's training may read tokens that were made before it, or must make them by code of its own."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from tunemake import prompts
from tunemake.engines.python_edits import PythonText
from tunemake.engines.xtuner_configs import constant, dataset

# What a config's data may say where the tokens are made before: anything, the one value, or any that can be read.
_ANY = {
    "type", "dataset", "tokenizer", "dataset_map_fn", "template_map_fn", "remove_unused_columns", "map_num_proc",
}  # fmt: skip
_ONE = {"shuffle_before_pack": True, "use_varlen_attn": False, "split": "train", "rename_maps": []}
_READ = {"max_length": "max_length", "pack_to_max_length": "packing"}
_TOKENIZER = {"type": "load_tokenizer", "padding_side": "'right'"}


def makes_tokens(config: PythonText) -> str | None:
    """Say what of a config's data the tokens stage cannot do, so that its training makes the tokens; None for nothing.

    What is said of files, tokenizer and templates counts for nothing: in one of XTuner's own they are replaced.
    """
    data = dataset(config)
    for entry in data.keywords if isinstance(data, ast.Call) else []:
        value = constant(config, entry.value)
        if entry.arg in _ANY or (entry.arg in _ONE and value == _ONE[entry.arg]):
            continue
        if entry.arg not in _READ or value is None:
            return f"its data has {entry.arg} = {config.text_of(config.followed(entry.value))}"
    return None


def unlike(plain: PythonText, whole: PythonText, values: Mapping[str, Any]) -> str | None:
    """Say why what a template renders makes other tokens than the tokens stage does; None where they are the same.

    plain, whole: rendered without and with a path to tokens. values: those of the config stage.
    """
    read = whole.followed(whole.at("train_dataloader.dataset"))
    if constant(whole, whole.keyword(read, "path")) != values["tokens_path"]:
        return "its template has data of its own"
    data = dataset(plain)
    for name, ours in _READ.items():
        if constant(plain, plain.keyword(data, name)) != values["data"][ours]:
            return f"its template sets {name} by itself"
    asked = {
        "type": "process_hf_dataset", "dataset_map_fn": "openai_map_fn",
        "template_map_fn": "dict(type=template_map_fn_factory, template=prompt_template)",
    }  # fmt: skip
    own = [name for name, text in asked.items() if plain.text_of(plain.keyword(data, name)) != text]
    if own:
        return f"its template has a {own[0]} of its own"
    return makes_tokens(plain) or _tokenizer(plain, plain.followed(plain.keyword(data, "tokenizer")), values)


def _tokenizer(config: PythonText, made: ast.expr | None, values: Mapping[str, Any]) -> str | None:
    expected = {
        "pretrained_model_name_or_path": values["model_path"], "trust_remote_code": values["trust_remote_code"],
        "prompt_template": prompts.as_xtuner(values["prompt_template"]),
    }  # fmt: skip
    for entry in made.keywords if isinstance(made, ast.Call) else []:
        if entry.arg in _TOKENIZER and config.text_of(entry.value) == _TOKENIZER[entry.arg]:
            continue
        if entry.arg not in expected or _value(config, entry.value) != expected[entry.arg]:
            return f"its template's tokenizer has {entry.arg} = {config.text_of(entry.value)}"
    known = {entry.arg for entry in made.keywords} if isinstance(made, ast.Call) else set()
    return None if known == {*expected, *_TOKENIZER} else "its template has a tokenizer of its own"


def _value(config: PythonText, node: ast.expr) -> Any:
    found = config.followed(node)
    if isinstance(found, ast.Call) and config.text_of(found.func) == "dict":
        return {entry.arg: constant(config, entry.value) for entry in found.keywords}
    return constant(config, node)
