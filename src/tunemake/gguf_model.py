"""A Llama-architecture GGUF file to a Hugging Face model folder, with numpy alone: no torch, no transformers.

Sources: the GGUF specification (ggml), for names and metadata keys; llama.cpp's converter, which interleaves the rows
of the query and key weights for its rotary embedding, here put back; its tokenizer `smollm`, byte-level BPE in which
each digit stands alone. What these do not tell is refused by name: a guess would give a model that is subtly wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunemake.faults import Fault, ModelError
from tunemake.tensors import BYTES, FLOATS, Files, Tensor, create

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_NORMAL, _CONTROL = 1, 3  # token_type in the GGUF specification
_STORED = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
_SPECIAL_IDS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
# Metadata: what can be converted, the first where it is the rule; None where the key may be left out.
_KNOWN: dict[str, tuple[Any, ...]] = {
    "general.architecture": ("llama",), "tokenizer.ggml.model": ("gpt2",), "tokenizer.ggml.pre": ("smollm",),
    "tokenizer.ggml.add_bos_token": (False, None), "tokenizer.ggml.add_space_prefix": (False, None),
    "llama.expert_count": (0, None),
}  # fmt: skip
_NUMBERS = (
    "llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
    "llama.attention.head_count", *(f"tokenizer.ggml.{name}_token_id" for name in _SPECIAL_IDS.values()),
)  # fmt: skip
_LEFT_OUT = ("llama.attention.head_count_kv", "llama.attention.key_length", "llama.rope.dimension_count")
_OTHERS = {
    "llama.attention.layer_norm_rms_epsilon": float, "tokenizer.ggml.tokens": list, "tokenizer.ggml.token_type": list,
    "tokenizer.ggml.merges": list, "tokenizer.chat_template": str,
}  # fmt: skip
_BLOCK = 1 << 20  # values converted at a time; more only costs memory


def convert(gguf: Path, out: Path, dtype: str = "bfloat16") -> None:
    """Write the folder `out`: model.safetensors, config.json, generation_config.json and the tokenizer's files.

    dtype: of the weights that come out, "bfloat16", "float16" or "float32".
    Raises ModelError naming an architecture, a tokenizer, a quantisation or a tensor that it does not know.
    """
    if dtype not in _DTYPES:
        raise ModelError(Fault("dtype", "unknown", ", ".join(_DTYPES), dtype))
    reader, values = _read(gguf)
    _refuse_unknown(gguf.name, reader, values)
    out.mkdir(parents=True)
    names = {tensor.name: str(_hf_name(tensor.name)) for tensor in reader.tensors}
    specs = [(names[t.name], _DTYPES[dtype], _shape(t)) for t in reader.tensors]
    targets = create(out / "model.safetensors", specs)
    heads, shared_heads = _heads(values)
    with Files() as files:
        for tensor in reader.tensors:
            turned = {"attn_q": heads, "attn_k": shared_heads}.get(tensor.name.split(".")[-2])
            _write_weight(files, targets[names[tensor.name]], tensor, turned)
    _write_json(out / "config.json", _config(values, dtype, tied="output.weight" not in names))
    tokens = {key: values[f"tokenizer.ggml.{name}_token_id"] for key, name in _SPECIAL_IDS.items()}
    _write_json(out / "generation_config.json", {f"{key}_token_id": tokens[key] for key in ("bos", "eos", "pad")})
    _write_tokenizer(out, values, tokens)


def _read(gguf: Path) -> tuple[Any, Mapping[str, Any]]:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(gguf))
        return reader, {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # the package raises whatever a torn file leads it to
        raise ModelError(Fault(gguf.name, f"not a readable GGUF file: {type(error).__name__}: {error}")) from error


def _refuse_unknown(file: str, reader: Any, values: Mapping[str, Any]) -> None:
    faults = [
        Fault(file, f"{key}: not one that can be converted", " or ".join(map(repr, known)), repr(values.get(key)))
        for key, known in _KNOWN.items()
        if values.get(key) not in known
    ]
    stored = {tensor.tensor_type.name for tensor in reader.tensors} - set(_STORED)
    faults += [
        Fault(file, f"quantisation {kind}: not one that is known", ", ".join(_STORED)) for kind in sorted(stored)
    ]
    faults += [Fault(file, f"{key}: not handled") for key in values if key.startswith("llama.rope.scal")]
    unknown = [tensor.name for tensor in reader.tensors if _hf_name(tensor.name) is None]
    faults += [Fault(file, f"tensor {name}: not one of a Llama model") for name in unknown]
    if values.get("general.architecture") == "llama":  # another one has other keys
        faults += _wrong_values(file, values)
    if not faults:
        faults = [*_wrong_tensors(file, reader, values), *_wrong_tokens(file, values)]
    if faults:
        raise ModelError(faults)


def _wrong_values(file: str, values: Mapping[str, Any]) -> list[Fault]:
    kinds = {**dict.fromkeys(_NUMBERS, int), **_OTHERS} | {key: int for key in _LEFT_OUT if key in values}
    # A list where a number is expected is a setting for each layer; no size is 0, but a token's number may be.
    wrong = [key for key, kind in kinds.items() if not isinstance(values.get(key), kind)]
    wrong += [key for key in kinds if key.startswith("llama.") and values.get(key) == 0]
    return [Fault(file, f"{key}: missing or not handled; expected {kinds[key].__name__}") for key in wrong]


def _wrong_tensors(file: str, reader: Any, values: Mapping[str, Any]) -> list[Fault]:
    """Compare the tensors with those that the metadata asks for: names and shapes."""
    found = {tensor.name: _shape(tensor) for tensor in reader.tensors}
    heads, shared_heads = _heads(values)
    hidden, inner = values["llama.embedding_length"], values["llama.feed_forward_length"]
    size = values.get("llama.attention.key_length", hidden // heads)
    square, shared = (heads * size, hidden), (shared_heads * size, hidden)
    shapes = {
        "attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": square, "attn_k": shared, "attn_v": shared,
        "attn_output": (hidden, heads * size), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }  # fmt: skip
    vocabulary = (len(values["tokenizer.ggml.tokens"]), hidden)
    wanted = {"token_embd.weight": vocabulary, "output_norm.weight": (hidden,)}
    wanted |= {"output.weight": vocabulary} if "output.weight" in found else {}
    layers = range(min(values["llama.block_count"], len(found)))  # a number from a file; more cannot all be there
    wanted |= {f"blk.{layer}.{part}.weight": shape for layer in layers for part, shape in shapes.items()}
    faults = [Fault(file, f"tensor {name}: of no layer that there is") for name in sorted(found.keys() - wanted.keys())]
    missing = sorted(wanted.keys() - found.keys())
    faults += [Fault(file, f"{len(missing)} tensors are missing, {missing[0]} among them")] if missing else []
    faults += [
        Fault(file, f"tensor {name}: another shape than the metadata tells", str(shape), str(found[name]))
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    if values.get("llama.rope.dimension_count", size) != size:
        faults.append(
            Fault(file, "llama.rope.dimension_count: a rotary embedding of a part of each head is not handled")
        )
    return faults


def _wrong_tokens(file: str, values: Mapping[str, Any]) -> list[Fault]:
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    faults = []
    if len(set(tokens)) != len(tokens) or len(kinds) != len(tokens):
        faults.append(Fault(file, "tokenizer.ggml.tokens: not one token_type for each, or a token is there twice"))
    others = sorted(set(kinds) - {_NORMAL, _CONTROL})
    faults += [
        Fault(file, f"tokenizer.ggml.token_type {kind}: not handled", "1 (normal) or 3 (control)") for kind in others
    ]
    return faults + [
        Fault(file, f"tokenizer.ggml.{name}_token_id: beyond the vocabulary", f"below {len(tokens)}")
        for name in _SPECIAL_IDS.values()
        if values[f"tokenizer.ggml.{name}_token_id"] >= len(tokens)
    ]


def _heads(values: Mapping[str, Any]) -> tuple[int, int]:
    """Give the number of query heads and of key-value heads."""
    heads = values["llama.attention.head_count"]
    return heads, values.get("llama.attention.head_count_kv", heads)


def _shape(tensor: Any) -> tuple[int, ...]:
    """Give a tensor's shape as torch has it: GGUF counts the innermost side first."""
    return tuple(int(side) for side in reversed(tensor.shape))


def _hf_name(name: str) -> str | None:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    found = re.fullmatch(r"blk\.([0-9]+)\.(\w+)\.weight", name)
    return f"model.layers.{found[1]}.{_INSIDE[found[2]]}.weight" if found and found[2] in _INSIDE else None


def _write_weight(files: Files, target: Tensor, tensor: Any, heads: int | None) -> None:
    """Dequantise a tensor block by block. heads: of a query or key weight, whose rows are put in order."""
    from gguf.quants import dequantize

    packed = tensor.data if tensor.data.ndim > 1 else tensor.data[None]
    order = _row_order(len(packed), heads) if heads else np.arange(len(packed))
    columns, dtype = target.count // len(packed), target.dtype
    step = max(1, _BLOCK // columns)
    for first in range(0, len(packed), step):
        values = dequantize(packed[order[first : first + step]], tensor.tensor_type)
        with np.errstate(over="ignore"):  # told below, by name
            rounded = np.ascontiguousarray(values).astype(FLOATS[dtype])
        if not np.isfinite(rounded).all():
            raise ModelError(Fault(tensor.name, f"holds values that are no finite {dtype}", next_step="use bfloat16"))
        files.write(target, first * columns * BYTES[dtype], rounded.reshape(-1).view(np.uint8))


def _row_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Give, for each row of a query or key weight, where it lies among rows that interleave each head's two halves."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)


def _config(values: Mapping[str, Any], dtype: str, *, tied: bool) -> dict[str, Any]:
    llama = {key.removeprefix("llama."): value for key, value in values.items() if key.startswith("llama.")}
    heads, shared_heads = _heads(values)
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": dtype,
        "vocab_size": len(values["tokenizer.ggml.tokens"]),
        "hidden_size": llama["embedding_length"], "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"], "num_attention_heads": heads,
        "num_key_value_heads": shared_heads,
        "head_dim": llama.get("attention.key_length", llama["embedding_length"] // heads),
        "max_position_embeddings": llama["context_length"], "rope_theta": llama.get("rope.freq_base", 10000.0),
        # Kept in float32 there: 1e-5 comes out as 9.999999747378752e-06.
        "rms_norm_eps": float(np.format_float_positional(np.float32(llama["attention.layer_norm_rms_epsilon"]))),
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied,
        **{f"{key}_token_id": values[f"tokenizer.ggml.{_SPECIAL_IDS[key]}_token_id"] for key in ("bos", "eos", "pad")},
    }  # fmt: skip


def _write_tokenizer(out: Path, values: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in values["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(out / "tokenizer.json"))
    named = {f"{key}_token": tokens[index] for key, index in ids.items()}
    # PreTrainedTokenizerFast takes tokenizer.json as it is; a class of the architecture's would set up its own rules.
    _write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", **named, "model_max_length": values["llama.context_length"],
        "clean_up_tokenization_spaces": False, "chat_template": values["tokenizer.chat_template"],
    })  # fmt: skip
    _write_json(out / "special_tokens_map.json", named)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
