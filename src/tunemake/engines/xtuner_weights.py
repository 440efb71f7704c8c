"""What a built-in config says of the weights: method, precision, adapter, as a project declares it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from tunemake.engines import xtuner_configs as configs
from tunemake.engines.python_edits import PythonText

_LORA = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "targets": "target_modules"}


def edit_weights(config: PythonText, values: Mapping[str, Any]) -> Iterator[str]:
    """Put method, precision and adapter into the config; give the names of values that have no place in it."""
    own, train = configs.own_values(config), values["train"]
    other_method = train["method"] != own["train.method"]
    other_precision = train["precision"] != own["train.precision"]
    if other_method:
        _set_method(config, train)
    if other_method or other_precision:
        _set_dtype(config, train)
    if other_precision:
        _set_optimizer_precision(config, train["precision"])
    yield from _set_lora(config, train, [name for name in values["declared"] if name.startswith("train.lora.")])


def _set_method(config: PythonText, train: Mapping[str, Any]) -> None:
    model, llm = config.assigned("model"), config.followed(config.at("model.llm"))
    if train["method"] == "qlora":
        config.set_keyword(llm, "quantization_config", _quantization(train["precision"]))
        config.imports("transformers", "BitsAndBytesConfig")
    else:
        config.drop_keyword(llm, "quantization_config")
    if train["method"] == "full":
        config.drop_keyword(model, "lora")
    elif config.at("model.lora") is None:
        items = "".join(f"{name}={train['lora'][key]!r}, " for key, name in _LORA.items() if _is_named(train, key))
        config.set_keyword(model, "lora", f'dict(type=LoraConfig, {items}bias="none", task_type="CAUSAL_LM")')
        config.imports("peft", "LoraConfig")


def _quantization(precision: str) -> str:
    return (
        "dict(type=BitsAndBytesConfig, load_in_4bit=True, "
        f'bnb_4bit_compute_dtype=torch.{precision}, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4")'
    )


def _set_dtype(config: PythonText, train: Mapping[str, Any]) -> None:
    llm = config.followed(config.at("model.llm"))
    # Under method full the optimizer changes the weights themselves: float32, whatever the products are made in.
    dtype = "torch.float32" if train["method"] == "full" else f"torch.{train['precision']}"
    config.set_keyword(llm, "torch_dtype", dtype)
    config.imports("torch")
    quantization = config.keyword(llm, "quantization_config")
    if train["method"] == "qlora" and quantization is not None:
        config.set_keyword(quantization, "bnb_4bit_compute_dtype", dtype)


def _set_optimizer_precision(config: PythonText, precision: str) -> None:
    wrapper = config.assigned("optim_wrapper")
    if precision == "float16":
        config.set_keyword(wrapper, "loss_scale", '"dynamic"')
    else:
        config.drop_keyword(wrapper, "loss_scale")
    if precision == "float32":
        config.set_keyword(wrapper, "type", "OptimWrapper")  # the other one runs on GPUs alone
        config.imports("mmengine.optim", "OptimWrapper")
        config.drop_keyword(wrapper, "dtype")
    else:
        config.set_keyword(wrapper, "type", "AmpOptimWrapper")
        config.imports("mmengine.optim", "AmpOptimWrapper")
        config.set_keyword(wrapper, "dtype", repr(precision))


def _set_lora(config: PythonText, train: Mapping[str, Any], declared: list[str]) -> Iterator[str]:
    if train["method"] == "full":
        yield from declared
        return
    lora = config.followed(config.at("model.lora"))
    if not isinstance(lora, ast.Call):
        return  # what was put in has them all
    for place in declared:
        key = place.rpartition(".")[2]
        if _is_named(train, key):
            config.set_keyword(lora, _LORA[key], repr(train["lora"][key]))
        else:
            config.drop_keyword(lora, _LORA[key])


def _is_named(train: Mapping[str, Any], key: str) -> bool:
    return key != "targets" or train["lora"]["targets"] != "all-linear"  # XTuner's own, where none is named
