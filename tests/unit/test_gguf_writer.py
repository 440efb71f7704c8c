"""What is written as a GGUF is what transformers' own reader makes of it: logits and weights, for each architecture."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

import tiny
from tunemake import gguf_layout, gguf_writer
from tunemake.faults import ModelError, StageError
from tunemake.gguf_model import _row_order
from tunemake.gguf_tokenizer import tokenizer_metadata
from tunemake.model_folder import read_config
from tunemake.tensors import BYTES, FLOATS, Files, create, read_model


def silent(done, total):
    """Show nothing."""


def export(folder, path, kind, **changes):
    config = read_config(folder) | changes
    gguf_layout.refuse_unknown(config)
    metadata = {
        "general.architecture": gguf_layout.architecture_of(config), "general.name": "tiny",
        **gguf_layout.numbers(config), **tokenizer_metadata(folder, config["vocab_size"], add_bos=False),
    }  # fmt: skip
    return gguf_writer.write_gguf(path, kind, metadata, gguf_layout.parts(config, read_model(folder)), silent)


def write_qwen2(folder):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=tiny.write_tokenizer(folder), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rope_theta=50000.0,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)  # they begin as zeros, which hide a wrong order
    model.save_pretrained(folder)


def write_mistral(folder):
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=tiny.write_tokenizer(folder), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256, sliding_window=128,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)


def write_biased_internlm2(folder):
    tiny.write_internlm2(folder)
    config = read_config(folder) | {"bias": True}
    model = read_model(folder)
    random = np.random.default_rng(0)
    with Files() as files:
        values = {name: files.load(tensor) for name, tensor in model.items()}
    for name in list(values):
        if ".attention.w" in name:
            values[name.replace("weight", "bias")] = random.standard_normal(len(values[name])).astype(np.float32)
    (folder / "model.safetensors").unlink()
    with Files() as files:
        made = create(folder / "model.safetensors", [(name, "F32", v.shape) for name, v in values.items()])
        for name, tensor in made.items():
            files.write(tensor, 0, values[name].reshape(-1).view(np.uint8))
    (folder / "config.json").write_text(json.dumps(config))


MODELS = {
    "llama": tiny.write_llama, "llama untied": lambda folder: tiny.write_llama(folder, tied=False, dtype="float32"),
    "qwen2": write_qwen2, "mistral": write_mistral, "internlm2": tiny.write_internlm2,
    "internlm2 biased": write_biased_internlm2,
}  # fmt: skip


def load(folder, **how):
    import torch
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader's own copies of arrays that cannot be written to
        return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, **how).eval()


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.tensor([[1, 40, 90, 7, 200, 31, 2, 66, 101, 5, 5, 77]])).logits.numpy()


def with_biases(path):
    """Load a Llama with biases, which that reader would silently leave out."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    config.attention_bias = True
    model = load(path.parent, gguf_file=path.name, config=config)
    tensors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(str(path)).tensors}
    for number, layer in enumerate(model.model.layers):
        for part, heads in (("q", 4), ("k", 2), ("v", None), ("o", None)):
            name = "output" if part == "o" else part
            bias = tensors[f"blk.{number}.attn_{name}.bias"]
            bias = bias[_row_order(len(bias), heads)] if heads else bias
            getattr(layer.self_attn, f"{part}_proj").bias.data = torch.from_numpy(bias)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_another_reader_gets_the_same_logits(name, tmp_path):
    folder, path = tmp_path / "model", tmp_path / "m.gguf"
    MODELS[name](folder)
    assert set(export(folder, path, "f32")) == {"f32"}
    wanted = logits(load(folder, trust_remote_code=name.startswith("internlm2")))
    got = logits(with_biases(path) if "biased" in name else load(tmp_path, gguf_file="m.gguf"))
    assert got.shape == wanted.shape
    assert np.abs(wanted).max() > 0.01
    assert np.abs(got - wanted).max() < 1e-6 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(("kind", "dtype"), [("f16", "float16"), ("bf16", "bfloat16")])
def test_a_dtype_is_its_rounding_and_no_more(kind, dtype, tmp_path):
    import torch

    tiny.write_llama(tmp_path / "model", dtype="float32")
    told = export(tmp_path / "model", tmp_path / "m.gguf", kind)
    assert told == {"f32": 5, kind: 15}
    model = load(tmp_path / "model")
    whole = logits(model)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = weight.data.to(getattr(torch, dtype)).float()
    got = logits(load(tmp_path, gguf_file="m.gguf"))
    assert np.abs(logits(model) - got).max() < 1e-6
    assert np.abs(whole - got).max() > 1e-5


# How far a value may be from the one stored, in parts of the largest of its group of 32: the width of a step.
STEPS = {"q8_0": 1 / 127, "q5_0": 1 / 8, "q5_1": 1 / 15, "q4_0": 1 / 4, "q4_1": 1 / 7}


@pytest.mark.parametrize("kind", STEPS)
def test_what_is_quantised_is_within_a_step(kind, tmp_path):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tiny.write_llama(tmp_path / "model", tied=False)
    told = export(tmp_path / "model", tmp_path / "m.gguf", kind)
    assert sum(told.values()) == 21
    assert told.get("q8_0") == (16 if kind == "q8_0" else 2)  # the embeddings
    model = read_model(tmp_path / "model")
    names = {"blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight", "output.weight": "lm_head.weight",
             "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj.weight"}  # fmt: skip
    tensors = {tensor.name: tensor for tensor in GGUFReader(str(tmp_path / "m.gguf")).tensors}
    for name, original in names.items():
        with Files() as files:
            wanted = files.load(model[original])
        got = dequantize(tensors[name].data, tensors[name].tensor_type)
        if "attn_k" in name:
            got = got[_row_order(len(got), 2)]
        off = np.abs(got - wanted).reshape(-1, 32).max(axis=1)
        assert (off <= STEPS[tensors[name].tensor_type.name.lower()] * np.abs(wanted).reshape(-1, 32).max(axis=1)).all()


def test_blocks_smaller_than_a_tensor_make_the_same_file(tmp_path, monkeypatch):
    tiny.write_llama(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "whole.gguf", "q8_0")
    monkeypatch.setattr(gguf_writer, "_BLOCK", 96)  # three rows of 32
    export(tmp_path / "model", tmp_path / "parts.gguf", "q8_0")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "parts.gguf").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            r"no GGUF of this architecture; expected Llama.*, got GPT2LMHeadModel",
        ),
        ({"architectures": None}, "no GGUF of this architecture"),
        ({"hidden_act": "gelu"}, "config.json: hidden_act: not handled in a GGUF; got 'gelu'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "config.json: rope_scaling: not handled"),
        ({"quantization_config": {"bits": 4}}, "config.json: quantization_config: not handled"),
        ({"num_hidden_layers": "2"}, "config.json: num_hidden_layers: not a size; got '2'"),
        ({"num_hidden_layers": 3}, r"blk\.2\.attn_norm\.weight: another shape .*; expected \(32,\), got None"),
        ({"num_hidden_layers": 1}, r"blk\.1\.attn_norm\.weight: of no layer"),
        ({"intermediate_size": 32}, r"blk\.0\.ffn_up\.weight: another shape .*; expected \(32, 32\), got \(64, 32\)"),
        ({"tie_word_embeddings": False}, r"output\.weight: another shape"),
    ],
)
def test_what_a_gguf_cannot_say_is_refused_in_a_line(changes, message, tmp_path):
    tiny.write_llama(tmp_path / "model")
    with pytest.raises(ModelError, match=message) as caught:
        export(tmp_path / "model", tmp_path / "m.gguf", "f16", **changes)
    assert all("\n" not in str(fault) for fault in caught.value.faults)
    assert not (tmp_path / "m.gguf").exists()


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path):
    tiny.write_llama(tmp_path / "model")
    tensors = read_model(tmp_path / "model")
    config = read_config(tmp_path / "model")
    name = "model.layers.0.self_attn.q_norm.weight"
    tensors[name] = replace(tensors["model.norm.weight"], name=name)
    with pytest.raises(ModelError, match=r"q_norm\.weight: no place for such a tensor in a GGUF"):
        gguf_layout.parts(config, tensors)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("f16", 1e6, r"holds values that f16 cannot; export gguf-bf16 or gguf-f32"),
        ("q8_0", 1e9, r"holds values that q8_0 cannot"),
        ("q4_1", 1e6, r"holds values that q4_1 cannot"),
        ("f32", np.inf, r"blk\.0\.ffn_up\.weight holds values that are not finite"),
    ],
)
def test_values_that_a_kind_cannot_hold_are_told(kind, value, message, tmp_path):
    tiny.write_llama(tmp_path / "model")
    spoil(tmp_path / "model", "model.layers.0.mlp.up_proj.weight", value)
    with pytest.raises(StageError, match=message):
        export(tmp_path / "model", tmp_path / "m.gguf", kind)


def spoil(folder, name, value):
    tensor = read_model(folder)[name]
    with Files() as files:
        files.write(tensor, 5 * BYTES[tensor.dtype], np.array([value], FLOATS[tensor.dtype]).view(np.uint8))


def test_rows_that_are_no_groups_stay_float16():
    from tunemake.gguf_layout import Part
    from tunemake.tensors import Tensor

    part = Part("blk.0.ffn_up.weight", Tensor("x", "F32", (64, 48), None, 0), (range(64),))
    assert gguf_writer.kind_of(part, "q8_0") == "f16"
    assert gguf_writer.kind_of(part, "bf16") == "bf16"
