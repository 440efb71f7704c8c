"""Which tensors and numbers of a Hugging Face model a GGUF file has, under which names and in which order of rows.

Sources: the GGUF specification (ggml) for names and keys; for the order of rows, that llama.cpp turns neighbouring
values of a head in architecture `llama`, and Hugging Face's models the two halves of it. What is not known for certain
is refused by name: a guess would give a model that is subtly wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunemake.faults import Fault, ModelError
from tunemake.model_folder import BUFFERS
from tunemake.tensors import FLOATS, Tensor

# An InternLM2 computes what a Llama does once its fused query, key and value are parted.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "InternLM2ForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
}  # fmt: skip
_OUTSIDE = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.tok_embeddings": "token_embd", "output": "output",
}  # fmt: skip
_INSIDE = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "attention_norm": "attn_norm", "ffn_norm": "ffn_norm", "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
}  # fmt: skip
_FUSED = "attention.wqkv"
_BIASED = {"attn_q", "attn_k", "attn_v", "attn_output"}
# Stretches of positions that are those of the plain rotary embedding up to the model's own length.
_PLAIN_ROPE = (None, "default", "dynamic")
_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings",
          "vocab_size")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A tensor of a GGUF file: rows of one of the model's, one range after the other.

    head: rows of a head whose two halves are interleaved, or None where the rows keep their order. A vector has a row
    for each value.
    """

    name: str
    source: Tensor
    rows: tuple[range, ...]
    head: int | None = None

    @property
    def columns(self) -> int:
        """Give the number of values in a row."""
        return self.source.count // max(1, self.source.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Give the shape as torch has it."""
        return (sum(map(len, self.rows)), *self.source.shape[1:])


def architecture_of(config: Mapping[str, Any]) -> str:
    """Give GGUF's name of a model's architecture; ModelError where it has none that is known here."""
    named = (config.get("architectures") or [None])[0]
    if named not in ARCHITECTURES:
        step = "take the gguf formats out of export.formats"
        raise ModelError(
            Fault("export.formats", "no GGUF of this architecture", ", ".join(ARCHITECTURES), str(named), step)
        )
    return ARCHITECTURES[named]


def refuse_unknown(config: Mapping[str, Any]) -> None:
    """Raise ModelError for what a config asks for and a GGUF file of the architecture cannot say, all at once."""
    architecture_of(config)
    faults = [
        Fault("export.formats", f"config.json: {key}: not a size", got=repr(config.get(key)))
        for key in _SIZES
        if type(config.get(key)) is not int or config[key] < 1
    ]
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    refused = {
        "hidden_act": config.get("hidden_act", "silu") != "silu", "rope_scaling": kind not in _PLAIN_ROPE,
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "quantization_config": bool(config.get("quantization_config")), "mlp_bias": bool(config.get("mlp_bias")),
        "partial_rotary_factor": config.get("partial_rotary_factor", 1) != 1,
    }  # fmt: skip
    faults += [
        Fault("export.formats", f"config.json: {key}: not handled in a GGUF", got=repr(config[key]))
        for key, wrong in refused.items()
        if wrong
    ]
    if faults:
        raise ModelError(faults)


def numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the metadata that says how the model computes, by GGUF's keys; floats are float32 there."""
    heads, shared_heads, size = _heads(config)
    length = config["max_position_embeddings"]
    # llama.cpp reads no window of a Llama's: within the window's length both compute the same.
    length = min(length, config.get("sliding_window") or length) if "Mistral" in config["architectures"][0] else length
    told = {
        "context_length": length, "embedding_length": config["hidden_size"],
        "vocab_size": config["vocab_size"], "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads, "attention.head_count_kv": shared_heads, "rope.dimension_count": size,
        "attention.key_length": size, "attention.value_length": size,
        "rope.freq_base": float(config.get("rope_theta") or 10000.0),
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
    }  # fmt: skip
    architecture = architecture_of(config)
    return {f"{architecture}.{key}": value for key, value in told.items()}


def parts(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[Part]:
    """Give the tensors of the GGUF file, in order; ModelError for any that it has no place for, or that it lacks."""
    found: dict[str, Part] = {}
    faults = []
    for name, tensor in tensors.items():
        if name.endswith(BUFFERS):
            continue
        made = list(_parts_of(config, tensor)) if tensor.dtype in FLOATS else []
        found |= {part.name: part for part in made}
        if not made:
            faults.append(Fault("export.formats", f"{name}: no place for such a tensor in a GGUF", got=tensor.dtype))
    if config.get("tie_word_embeddings"):
        found.pop("output.weight", None)  # the same values again; absent, token_embd serves
    faults += _wrong_shapes(config, found)
    if faults:
        raise ModelError(faults)
    return sorted(found.values(), key=_place)


def _heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Give the number of query heads, that of key-value heads, and the values in a head."""
    heads = config["num_attention_heads"]
    return heads, config.get("num_key_value_heads") or heads, config.get("head_dim") or config["hidden_size"] // heads


def _parts_of(config: Mapping[str, Any], tensor: Tensor) -> Iterator[Part]:
    module, _, kind = tensor.name.rpartition(".")
    whole = (range(tensor.shape[0]),) if tensor.shape else ()
    if module in _OUTSIDE and kind == "weight":
        yield Part(f"{_OUTSIDE[module]}.weight", tensor, whole)
        return
    found = re.fullmatch(r"model\.layers\.([0-9]+)\.(.+)", module)
    if found is None or kind not in {"weight", "bias"}:
        return
    if found[2] == _FUSED:
        yield from _unfused(config, tensor, f"blk.{found[1]}", kind)
        return
    name = _INSIDE.get(found[2])
    if name is not None and (kind == "weight" or name in _BIASED):
        turned = architecture_of(config) == "llama" and name in {"attn_q", "attn_k"}
        yield Part(f"blk.{found[1]}.{name}.{kind}", tensor, whole, _heads(config)[2] if turned else None)


def _unfused(config: Mapping[str, Any], tensor: Tensor, block: str, kind: str) -> Iterator[Part]:
    """Part InternLM2's fused rows: for each key-value head its query heads, then one of keys, then one of values."""
    heads, shared, size = _heads(config)
    each = heads // shared
    starts = [group * (each + 2) * size for group in range(shared)]
    for name, first, count in (("attn_q", 0, each), ("attn_k", each, 1), ("attn_v", each + 1, 1)):
        rows = tuple(range(start + first * size, start + (first + count) * size) for start in starts)
        yield Part(f"{block}.{name}.{kind}", tensor, rows, None if name == "attn_v" else size)


def _wrong_shapes(config: Mapping[str, Any], found: Mapping[str, Part]) -> Iterator[Fault]:
    """Compare the tensors with those that the config asks for: names and shapes."""
    heads, shared_heads, size = _heads(config)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    square, shared = (heads * size, hidden), (shared_heads * size, hidden)
    shapes = {
        "attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": square, "attn_k": shared, "attn_v": shared,
        "attn_output": (hidden, heads * size), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }  # fmt: skip
    wanted = {"token_embd.weight": (config.get("vocab_size"), hidden), "output_norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        wanted["output.weight"] = (config.get("vocab_size"), hidden)
    layers = range(min(config["num_hidden_layers"], len(found)))
    wanted |= {f"blk.{layer}.{name}.weight": shape for layer in layers for name, shape in shapes.items()}
    biases = {name: (shapes[name[:-5].split(".")[-1]][0],) for name in found if name.endswith(".bias")}
    for name, shape in (wanted | biases).items():
        got = found[name].shape if name in found else None
        if got != shape or found[name].source.shape[0] < found[name].rows[-1].stop:
            yield Fault("export.formats", f"{name}: another shape than config.json tells", str(shape), str(got))
    for name in found.keys() - wanted.keys() - biases.keys():
        yield Fault("export.formats", f"{name}: of no layer that config.json tells of")


def _place(part: Part) -> tuple[int, str]:
    """Put the embeddings first, then layer by layer, as llama.cpp reads them."""
    found = re.match(r"blk\.([0-9]+)\.", part.name)
    return int(found[1]) if found else -1, part.name
