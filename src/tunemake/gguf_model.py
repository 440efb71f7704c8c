"""A Llama-architecture GGUF file to a Hugging Face model folder, with numpy alone: no torch, no transformers.

Sources: the GGUF specification (ggml), for names and metadata keys; llama.cpp's converter, which interleaves the rows of
the query and key weights for its rotary embedding, here put back; its tokenizer `smollm`, byte-level BPE in which each
digit stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunemake.faults import Fault, ModelError
from tunemake.tensors import FLOATS, Files, create

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
_CONTROL = 3  # token_type of control tokens in the GGUF specification


def convert(gguf: Path, out: Path, dtype: str = "bfloat16") -> None:
    """Write the folder `out`: model.safetensors, config.json, generation_config.json and the tokenizer's files.

    dtype: of the weights that come out, "bfloat16", "float16" or "float32".
    Raises ModelError naming an architecture, a tokenizer or a tensor that it does not know.
    """
    reader, values = _read(gguf)
    _refuse_unknown(gguf, reader, values)
    out.mkdir(parents=True)
    names = {tensor.name: _hf_name(tensor.name) for tensor in reader.tensors}
    specs = [(names[t.name], _DTYPES[dtype], tuple(int(n) for n in reversed(t.shape))) for t in reader.tensors]
    targets = create(out / "model.safetensors", specs)
    with Files() as files:
        for name, weight in _weights(reader, values):
            target = targets[names[name]]
            rounded = np.ascontiguousarray(weight.astype(FLOATS[target.dtype]))
            files.write(target, 0, rounded.reshape(-1).view(np.uint8))
    _write_json(out / "config.json", _config(values, dtype, tied="output.weight" not in names))
    tokens = {key: values[f"tokenizer.ggml.{name}_token_id"] for key, name in _SPECIAL_IDS.items()}
    _write_json(out / "generation_config.json", {f"{key}_token_id": tokens[key] for key in ("bos", "eos", "pad")})
    _write_tokenizer(out, values, tokens)


_SPECIAL_IDS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def _read(gguf: Path) -> tuple[Any, Mapping[str, Any]]:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(gguf))
        return reader, {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # the package raises whatever a torn file leads it to
        raise ModelError(Fault(gguf.name, f"not a readable GGUF file: {type(error).__name__}: {error}")) from error


def _refuse_unknown(gguf: Path, reader: Any, values: Mapping[str, Any]) -> None:
    wanted = {
        "general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False,
    }  # fmt: skip
    faults = [
        Fault(gguf.name, f"{key}: not one that can be converted", repr(value), repr(values.get(key)))
        for key, value in wanted.items()
        if values.get(key) != value
    ]
    unknown = [tensor.name for tensor in reader.tensors if _hf_name(tensor.name) is None]
    faults += [Fault(gguf.name, f"tensor {name}: not one of a Llama model") for name in unknown]
    faults += [Fault(gguf.name, f"{key}: not handled") for key in values if key.startswith("llama.rope.scaling")]
    if faults:
        raise ModelError(faults)


def _hf_name(name: str) -> str | None:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    parts = name.split(".")
    known = len(parts) == 4 and parts[0] == "blk" and parts[2] in _INSIDE and parts[3] == "weight"  # noqa: PLR2004
    return f"model.layers.{parts[1]}.{_INSIDE[parts[2]]}.weight" if known else None


def _weights(reader: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    from gguf.quants import dequantize

    heads = {"attn_q": values["llama.attention.head_count"], "attn_k": values["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
        part = tensor.name.split(".")[-2]
        if part in heads:
            weight = _rows_in_order(weight, heads[part])
        yield tensor.name, weight


def _rows_in_order(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the interleaving of each head's two halves. weight: [heads · head size, columns]."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(values: Mapping[str, Any], dtype: str, *, tied: bool) -> dict[str, Any]:
    llama = {key.removeprefix("llama."): value for key, value in values.items() if key.startswith("llama.")}
    heads = llama["attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": dtype,
        "vocab_size": llama.get("vocab_size", len(values["tokenizer.ggml.tokens"])),
        "hidden_size": llama["embedding_length"], "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"], "num_attention_heads": heads,
        "num_key_value_heads": llama.get("attention.head_count_kv", heads),
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
