"""The names of what a model is exported as, and the files that come out; imports nothing heavy, for the graph asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

SUMMARY = "export.json"
MODELFILE = "Modelfile"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def gguf_kinds(formats: Sequence[str]) -> list[str]:
    """Give the kinds of the GGUF files among formats, in their order: "q8_0" of "gguf-q8_0"."""
    return [name.removeprefix("gguf-") for name in formats if name.startswith("gguf-")]


def gguf_name(project: str, kind: str) -> str:
    """Name a GGUF file as llama.cpp's users know it: model, then the kind."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', project)}-{kind.upper()}.gguf"


def exported_files(formats: Sequence[str], project: str) -> tuple[str, ...]:
    """Name the files that an export must come to, the summary first."""
    ggufs = [gguf_name(project, kind) for kind in gguf_kinds(formats)]
    folders = [f"{name}/config.json" for name in formats if name.startswith("safetensors-")]
    return (SUMMARY, *ggufs, *([MODELFILE] if ggufs else []), *folders)
