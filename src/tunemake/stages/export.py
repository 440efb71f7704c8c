"""export: the merged model in the formats that the project declares, with what llama.cpp and Ollama need beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tunemake import gguf_layout, gguf_writer, ollama, prompts
from tunemake.chat_templates import ChatTemplate, read_chat_template, resolved
from tunemake.export_formats import DTYPES, MODELFILE, SUMMARY, gguf_kinds, gguf_name
from tunemake.faults import Fault, StageError
from tunemake.gguf_tokenizer import tokenizer_metadata
from tunemake.model_folder import read_config
from tunemake.models import legal_files
from tunemake.stages import Job
from tunemake.stages.merge import merge
from tunemake.tensors import read_model


def run(job: Job) -> dict[str, Any]:
    """Write the formats into work, a Modelfile for the first GGUF among them, and export.json, which tells of all.

    parameters: formats, system, parameters (the table of project.toml), project (its name), prompt_template. inputs:
    merged, and base where the prompt template is the base's own.
    """
    merged, formats = job.inputs["merged"], job.parameters["formats"]
    told: dict[str, Any] = {}
    if kinds := gguf_kinds(formats):
        template = resolved(job.parameters["prompt_template"], job.inputs.get("base", merged) / "model")
        told = _ggufs(job, merged, kinds, template)
    for name in formats:
        if name.startswith("safetensors-"):
            told[name] = _folder(job, merged, name)
    for path in legal_files(merged):
        shutil.copyfile(path, job.work / path.name)
    (job.work / SUMMARY).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return {"formats": {name: entry["bytes"] for name, entry in told.items()}}


def refuse(folder: Path, formats: Sequence[str]) -> None:
    """Raise ModelError where a model, or a base model whose merged one is of the same form, has no GGUF."""
    if gguf_kinds(formats):
        config = read_config(folder)
        gguf_layout.refuse_unknown(config)
        gguf_layout.parts(config, read_model(folder))
        tokenizer_metadata(folder, config["vocab_size"], add_bos=False)


def _ggufs(job: Job, merged: Path, kinds: list[str], template: Mapping[str, Any]) -> dict[str, Any]:
    """Write the GGUF files and the Modelfile; give what export.json tells of them."""
    own = read_chat_template(merged)
    bos = prompts.bos_of(template, own.tokens.get("bos_token"), own.tokenizer_class)
    config = read_config(merged)
    gguf_layout.refuse_unknown(config)
    parts = gguf_layout.parts(config, read_model(merged))
    metadata = {
        "general.architecture": gguf_layout.architecture_of(config), "general.name": job.parameters["project"],
        **gguf_layout.numbers(config), **tokenizer_metadata(merged, config["vocab_size"], add_bos=bos is not None),
    }  # fmt: skip
    # What is wrong with the Modelfile is told before the weights are written.
    _write_modelfile(job, template, own, bos, gguf_name(job.parameters["project"], kinds[0]))
    told = {}
    for kind in kinds:
        path = job.work / gguf_name(job.parameters["project"], kind)
        tensors = gguf_writer.write_gguf(path, kind, metadata, parts, _progress(job, path.name))
        narrow = tensors.get("f16", 0) if kind not in {"f16", "f32", "bf16"} else 0
        if narrow:
            job.say(f"{path.name}: {narrow} tensors are float16: their rows are no multiple of 32 values")
        told[f"gguf-{kind}"] = {"file": path.name, "bytes": path.stat().st_size, "tensors": tensors}
    return told


def _progress(job: Job, name: str) -> Callable[[int, int], None]:
    return lambda done, total: job.progress(done, total, name)


def _write_modelfile(job: Job, template: Mapping[str, Any], own: ChatTemplate, bos: str | None, gguf: str) -> None:
    gaps = gaps_of(template, own, bos=bos is not None)
    go = ollama.go_template(template, bos=bos, eos=own.tokens.get("eos_token"), gaps=gaps)
    values = job.parameters["parameters"]
    try:
        text = ollama.modelfile(gguf, go, ollama.stop_words(template), values, job.parameters["system"])
    except ValueError as error:
        raise StageError(Fault("export", str(error))) from error
    (job.work / MODELFILE).write_text(text, "utf-8")


def gaps_of(template: Mapping[str, Any], own: ChatTemplate, *, bos: bool) -> prompts.Gaps:
    """Give the spaces that the merged model's chat template has beside the prompt template's text."""
    for spaces in product((False, True), repeat=4):
        gaps = prompts.Gaps(*spaces)
        if prompts.as_chat_template(template, bos=bos, gaps=gaps) == own.source:
            return gaps
    raise StageError(Fault("export", "the merged model's chat template is not the one of the prompt template"))


def _folder(job: Job, merged: Path, name: str) -> dict[str, Any]:
    out = job.work / name
    merge(merged, None, out, dtype=DTYPES[name.removeprefix("safetensors-")], progress=_progress(job, name))
    for path in legal_files(merged):
        shutil.copyfile(path, out / path.name)
    return {"file": name, "bytes": sum(path.stat().st_size for path in out.iterdir())}
