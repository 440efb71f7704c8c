"""What a Hugging Face model folder holds beside its weights, and how its weights are split into files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunemake.faults import Fault, ModelError
from tunemake.models import LEGAL, MODEL_RECORD
from tunemake.seams import chat_template_for, encoder
from tunemake.tensors import BYTES, INDEX_NAME, Tensor, create

# Named by suffix, because tokenizers and custom code name their files as they like.
COMPANIONS = {".json", ".txt", ".model", ".py", ".jinja", ".tiktoken", ".vocab"}
# config.json is written anew, records tell of the base's own making, an adapter's config makes
# transformers load the folder as an adapter.
OWN = {"config.json", "artifact.json", MODEL_RECORD, "adapter_config.json", "log.txt"}
BIGGEST_COMPANION = 64 * 2**20  # the largest tokenizers known take half of it
# What older libraries saved with the weights and today's compute anew.
BUFFERS = (".inv_freq", ".masked_bias", ".attn.bias")
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
Spec = tuple[str, str, tuple[int, ...]]


def read_config(folder: Path) -> dict[str, Any]:
    """Give config.json; ModelError where it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(Fault(str(path), f"cannot be read: {error}")) from error
    if not isinstance(config, dict):
        raise ModelError(Fault(str(path), "no JSON object"))
    return config


def declared_dtype(dtype: str) -> str | None:
    """Give a declared dtype as safetensors spells it; None for "base", each tensor's own."""
    known = {"base": None, "float16": "F16", "bfloat16": "BF16", "float32": "F32"}
    if dtype not in known:
        raise ModelError(Fault("dtype", "unknown", ", ".join(known), dtype))
    return known[dtype]


def refuse_quantised(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError where the weights are quantised: adding to rounded integers loses what was learnt."""
    next_step = "name the model that it was made from"
    if config.get("quantization_config"):
        method = config["quantization_config"]
        kind = str(method.get("quant_method", "unknown")) if isinstance(method, dict) else "unknown"
        raise ModelError(
            Fault(
                str(folder / "config.json"),
                f"a model quantised by {kind} cannot be merged",
                next_step=next_step,
            )
        )
    narrow = [tensor for tensor in tensors.values() if tensor.dtype.startswith("F8")]
    if narrow:
        what = f"{narrow[0].name} and {len(narrow) - 1} more tensors are {narrow[0].dtype}"
        raise ModelError(Fault(str(narrow[0].path), f"{what}: fp8 weights cannot be merged", next_step=next_step))


def write_config(out: Path, config: Mapping[str, Any], tensors: Iterable[Tensor], *, untied: bool = False) -> None:
    """Write config.json for weights as they were written; a mixture of dtypes leaves the dtype as it was."""
    told = dict(config)
    written = {tensor.dtype for tensor in tensors} & DTYPE_NAMES.keys()
    if len(written) == 1:
        told["dtype" if "dtype" in told else "torch_dtype"] = DTYPE_NAMES[written.pop()]
    if untied:
        told["tie_word_embeddings"] = False
    (out / "config.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_companions(base: Path, out: Path) -> None:
    """Copy tokenizer, generation config, custom code, licences."""
    for path in sorted(base.iterdir()):
        if _is_companion(path):
            shutil.copyfile(path, out / path.name)


def group(specs: Sequence[Spec], shard_size: int) -> list[list[Spec]]:
    """Give the tensors of each file, in order, none above shard_size bytes unless one tensor is."""
    groups: list[list[Spec]] = []
    room = 0
    for spec in specs:
        size = _size(spec)
        if not groups or size > room:
            groups.append([])
            room = shard_size
        groups[-1].append(spec)
        room -= size
    return groups


def create_weights(out: Path, groups: Sequence[Sequence[Spec]]) -> dict[str, Tensor]:
    """Create the weight files, and their index where there are several; give the tensors to be filled."""
    if len(groups) == 1:
        return create(out / "model.safetensors", groups[0])
    made: dict[str, Tensor] = {}
    for number, specs in enumerate(groups, 1):
        made |= create(out / f"model-{number:05}-of-{len(groups):05}.safetensors", specs)
    index = {
        "metadata": {"total_size": sum(tensor.size for tensor in made.values())},
        "weight_map": {name: made[name].path.name for name in sorted(made)},
    }
    (out / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return made


def _is_companion(path: Path) -> bool:
    known = path.suffix in COMPANIONS or path.name.startswith(LEGAL)
    index = path.name.endswith(".index.json")
    if not known or index or path.name in OWN or path.name.startswith("."):
        return False
    return path.is_file() and path.stat().st_size <= BIGGEST_COMPANION


def _size(spec: Spec) -> int:
    size = BYTES[spec[1]]
    for side in spec[2]:
        size *= side
    return size


def set_chat_template(folder: Path, template: Mapping[str, Any], *, trust_remote_code: bool = False) -> None:
    """Make a model folder's tokenizer speak by a prompt template, and generation end at its stop words."""
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text("utf-8")) if path.exists() else {}
    made = chat_template_for(template, folder, encoder(folder, trust_remote_code=trust_remote_code))
    tokenizer["chat_template"] = made.source
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2) + "\n", "utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)  # transformers would prefer it to the one just set
    eos = [] if template["suffix_as_eos"] else [made.tokens.get("eos_token", "")]
    _end_at(folder, [*template["stop_words"], *eos])


def _end_at(folder: Path, words: list[str]) -> None:
    path, tokens = folder / "generation_config.json", folder / "tokenizer.json"
    generation = json.loads(path.read_text("utf-8")) if path.exists() else {}
    # Without a file of its own, transformers would take the model's from its config.
    told = generation.get("eos_token_id", read_config(folder).get("eos_token_id"))
    ends = set(told if isinstance(told, list) else [] if told is None else [told])
    if tokens.exists():
        added = json.loads(tokens.read_text("utf-8"))["added_tokens"]
        ends |= {token["id"] for token in added if token["content"] in words}
    if ends:
        path.write_text(json.dumps({**generation, "eos_token_id": sorted(ends)}, indent=2) + "\n", "utf-8")
