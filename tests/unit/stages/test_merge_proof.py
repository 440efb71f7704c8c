import json
import shutil

import numpy as np
import pytest
import tiny_models as models
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from tunemake.faults import StageError
from tunemake.merge_proof import prove
from tunemake.model_folder import set_chat_template
from tunemake.stages import Job
from tunemake.stages.adapter import full_model_from_checkpoint
from tunemake.stages.merge import merge, run
from tunemake.tensors import FLOATS, Files, create, read_model

TEMPLATE = {
    "system": "<|im_start|>system\n{system}<|im_end|>\n",
    "instruction": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n", "suffix": "<|im_end|>",
    "suffix_as_eos": True, "separator": "\n", "stop_words": ["<|im_end|>"], "bos": True, "from_tokenizer": False,
}  # fmt: skip
Q0, Q1 = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1))
NORM = "model.norm.weight"


def make(folder, *, dtype="bfloat16", tied=False, **values):
    """Make a base with a tokenizer, and an adapter; give both."""
    base = models.llama(folder / "base", dtype=dtype, tied=tied, attention_bias=True)
    tiny.write_tokenizer(base)
    return base, models.adapter(base, folder / "adapter", **{"target_modules": models.LINEAR, **values})


def merged_of(base, adapter, out, **values):
    merge(base, adapter, out, **values)
    set_chat_template(out, TEMPLATE)
    return out


def faults(merged, base, adapter, **values):
    return "\n".join(map(str, prove(merged, base, adapter, template=TEMPLATE, **values).faults))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof")
    base, adapter = make(folder)
    return base, adapter, merged_of(base, adapter, folder / "merged")


@pytest.fixture
def right(made, tmp_path):
    """Give base, adapter and a merged model that a test may damage."""
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in made)


RIGHT = {
    "float32": ({"dtype": "float32"}, {}),
    "bfloat16": ({}, {}),
    "float16": ({"dtype": "float16"}, {}),
    "wider": ({}, {"dtype": "float32"}),
    "narrower, in shards": ({"dtype": "float32"}, {"dtype": "bfloat16", "shard_size": 40_000}),
    "tied": ({"tied": True}, {}),
    "tied, and parted by LoRA": ({"tied": True, "target_modules": ["q_proj", "embed_tokens"]}, {}),
    "tied, and parted by a saved output": ({"tied": True, "modules_to_save": ["lm_head"]}, {}),
    "modules_to_save": ({"modules_to_save": ["embed_tokens", "1.input_layernorm"]}, {}),
    "rslora": ({"use_rslora": True}, {}),
    "patterns": ({"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}}, {}),
    "one layer": ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, {}),
    "biases": ({"target_modules": ["q_proj"], "bias": "all"}, {}),
    "regular expression": ({"target_modules": r".*\.0\..*(q|v)_proj"}, {}),
    "embeddings": ({"target_modules": ["embed_tokens", "lm_head"]}, {}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_merge_is_proven(tmp_path, case):
    values, asked = RIGHT[case]
    base, adapter = make(tmp_path, **values)
    proof = prove(merged_of(base, adapter, tmp_path / "out", **asked), base, adapter, template=TEMPLATE, **asked)
    assert [str(fault) for fault in proof.faults] == []
    total = len(read_model(tmp_path / "out"))
    assert proof.facts["weights"] + proof.facts["whole_tensors"] == total
    assert 0 < proof.facts["largest_deviation"] < proof.facts["largest_change"]


def test_weights_stored_as_in_by_out_are_proven(tmp_path):
    base = models.gpt2(tmp_path / "base")
    targets = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    adapter = models.adapter(base, tmp_path / "adapter", **targets)
    merge(base, adapter, tmp_path / "out")
    proof = prove(tmp_path / "out", base, adapter)
    assert (proof.faults, proof.facts["weights"], proof.facts["chat_template"]) == ((), 8, "not compared")


def other_adapter(adapter, folder, *, keep=lambda _: True, **config):
    """Give a copy of an adapter with other values in its config, without the tensors that are not kept."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(adapter, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: value for name, value in tensors.items() if keep(name)}, folder / "adapter_model.safetensors")
    models.edit(folder / "adapter_config.json", **config)
    return folder


def test_a_wrong_scale_is_caught_and_told(made, tmp_path):
    base, adapter, _ = made
    other = other_adapter(adapter, tmp_path / "other", lora_alpha=13)
    told = faults(merged_of(base, other, tmp_path / "out"), base, adapter)
    assert "merge: model.layers.0.mlp.down_proj.weight is not base + scale · B·A" in told
    assert "expected scale 3, got about 3.25 by least squares" in told
    assert "merge: 4 more weights have such a fault" in told


def test_a_layer_that_the_merge_left_out_is_caught(made, tmp_path):
    base, adapter, _ = made
    other = other_adapter(adapter, tmp_path / "other", keep=lambda name: ".1.self_attn.q_proj." not in name)
    told = faults(merged_of(base, other, tmp_path / "out"), base, adapter)
    assert told == f"merge: {Q1} is the base's: the merge exported the base; {told.partition('; ')[2]}"
    assert faults(tmp_path / "out", base, other) == (
        f"merge: {Q1}: the adapter changes it in other layers, and lacks this one"
    )


def test_a_merge_that_exported_the_base_is_caught(right):
    base, adapter, merged = right
    shutil.copy(base / "model.safetensors", merged / "model.safetensors")
    told = faults(merged, base, adapter)
    assert f"merge: {Q0} is the base's: the merge exported the base" in told
    assert "merge: every weight is the base's: the merge exported the base, or" in told


def test_an_adapter_of_zeros_is_caught(tmp_path):
    base, adapter = make(tmp_path, size=0.0)
    told = faults(merged_of(base, adapter, tmp_path / "out"), base, adapter)
    assert told == "merge: the adapter is all zeros: the merged model is its base; train longer"


def test_an_adapter_that_rounding_swallows_is_caught(tmp_path):
    base, adapter = make(tmp_path, size=1e-7)
    told = faults(merged_of(base, adapter, tmp_path / "out"), base, adapter)
    assert told.startswith("merge: every weight is the base's: the merge exported the base, or the adapter is lost in")
    assert not faults(merged_of(base, adapter, tmp_path / "wide", dtype="float32"), base, adapter, dtype="float32")


@given(st.data())
@settings(max_examples=60)
def test_one_flipped_bit_where_the_adapter_does_not_touch_is_caught(made, data):
    base, adapter, merged = made
    names = [NORM, "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.input_layernorm.weight"]
    tensor = read_model(merged)[data.draw(st.sampled_from(names))]
    at = data.draw(st.integers(0, tensor.size - 1))
    flip(tensor, at, bit := 1 << data.draw(st.integers(0, 7)))
    told = faults(merged, base, adapter)
    flip(tensor, at, bit)
    what = f"{tensor.name} is not the base's, and the adapter does not touch it"
    assert told == f"merge: {what}: 1 of {tensor.count} values differ, the first at {at // 2}"


def flip(tensor, at, bits=255):
    with tensor.path.open("r+b") as file:
        file.seek(tensor.offset + at)
        byte = file.read(1)[0]
        file.seek(tensor.offset + at)
        file.write(bytes([byte ^ bits]))


def test_wrong_dtype_shape_names_and_shards_are_caught(right, tmp_path):
    from safetensors.numpy import load_file, save_file

    base, adapter, merged = right
    assert "lm_head.weight has the wrong dtype; expected F16, got BF16" in faults(
        merged, base, adapter, dtype="float16"
    )
    too_large = "merge: model.safetensors is larger than merge.shard_size; expected 40000 bytes, got"
    assert too_large in faults(merged, base, adapter, shard_size=40_000)
    tensors = load_file(merged / "model.safetensors")
    tensors["extra"], tensors[NORM] = tensors.pop(Q1), tensors[NORM][:3]
    save_file(tensors, merged / "model.safetensors")
    save_file({"a": np.zeros(1)}, merged / "model-00001-of-00002.safetensors")
    models.edit(merged / "config.json", torch_dtype="float16", hidden_size=65)
    assert faults(merged, base, adapter).splitlines() == [
        "merge: extra is neither the base's nor the adapter's",
        f"merge: {Q1} is missing in the merged model",
        f"merge: {NORM} has the wrong shape; expected (64,), got (3,)",
        "merge: model-00001-of-00002.safetensors is none of the model's weight files",
        "merge: config.json: hidden_size; expected 64, got 65",
        'merge: config.json: torch_dtype; expected "bfloat16", got "float16"',
    ]
    shards = merged_of(base, adapter, tmp_path / "shards", shard_size=40_000)
    models.edit(shards / "model.safetensors.index.json", metadata={"total_size": 5})
    size = sum(tensor.size for tensor in read_model(shards).values())
    told = faults(shards, base, adapter, shard_size=40_000)
    assert told == f"merge: model.safetensors.index.json: metadata.total_size; expected {size}, got 5"


def test_a_tie_that_is_not_as_the_weights_are_is_caught(tmp_path):
    base, adapter = make(tmp_path, tied=True, modules_to_save=["lm_head"])
    merged = merged_of(base, adapter, tmp_path / "out")
    models.edit(merged / "config.json", tie_word_embeddings=True)
    assert faults(merged, base, adapter) == "merge: config.json: tie_word_embeddings; expected false, got true"


def test_a_tensor_that_the_adapter_holds_whole_is_compared_with_it(tmp_path):
    base, adapter = make(tmp_path, modules_to_save=["lm_head"])
    merged = merged_of(base, adapter, tmp_path / "out")
    flip(read_model(merged)["lm_head.weight"], 7)
    assert "lm_head.weight is not the adapter's own: 1 of 12800 values differ, the first at 3" in faults(
        merged, base, adapter
    )


def test_what_the_adapter_has_no_place_for_is_caught(right, tmp_path):
    base, adapter, merged = right
    lost = other_adapter(adapter, tmp_path / "lost", keep=lambda name: "0.self_attn.q_proj.lora_A" not in name)
    assert f"merge: {Q0}: the adapter has only one of A and B" in faults(merged, base, lost)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.other.weight": np.zeros(3)}, adapter / "adapter_model.safetensors")
    assert faults(merged, base, adapter) == (
        "merge: other.weight: the adapter changes it, and the base has no such weight"
    )


@pytest.fixture
def full(tmp_path):
    """Give a base, and a function that fully fine-tunes it by adding to its weights."""
    base = models.llama(tmp_path / "base", tied=True)
    tiny.write_tokenizer(base)

    def tuned(added, name, **values):
        weights = {f"llm.{name}": tensor.float() + added for name, tensor in models.tensors_of(base).items()}
        models.libraries().torch.save({"state_dict": weights}, tmp_path / "iter_1.pth")
        full_model_from_checkpoint(tmp_path / "iter_1.pth", base, tmp_path / name, **values)
        set_chat_template(tmp_path / name, TEMPLATE)
        return tmp_path / name

    return base, tuned


def test_a_full_fine_tuning_must_differ_from_its_base(full):
    base, tuned = full
    assert not faults(tuned(0.01, "right"), base, None)
    assert not faults(tuned(1e-5, "wide", dtype="float32"), base, None, dtype="float32")
    told = faults(tuned(0.0, "same"), base, None)
    assert told == ("merge: every weight is the base's: the training changed nothing, or the merge exported the base")


def test_the_stage_proves_what_it_made_and_ends_where_it_is_wrong(made, tmp_path, monkeypatch):
    base, adapter, _ = made
    for name in ("base", "data", "one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "model").symlink_to(base)
    (tmp_path / "base" / "model.json").write_text(json.dumps({"revision": None, "sha256": "0", "files": {}}))
    parameters = {"dtype": "base", "shard_size": None, "prompt_template": TEMPLATE, "project": "p"}
    parameters |= {"base": "./base", "template": "chatml"}
    inputs = {"base": tmp_path / "base", "adapter": adapter, "data": tmp_path / "data"}
    job = Job(tmp_path, tmp_path / "one", parameters, {"trust_remote_code": False}, inputs)
    assert run(job)["proof"]["weights"] == 14
    # An error of the merge: it takes the scale of another adapter.
    monkeypatch.setattr("tunemake.lora.LoraConfig.scale", lambda *_: 2.0)
    with pytest.raises(StageError, match=r"q_proj\.weight is not base \+ scale .* expected scale 3, got about 2"):
        run(Job(tmp_path, tmp_path / "two", parameters, {"trust_remote_code": False}, inputs))


def test_all_values_of_small_weights_are_compared(right):
    base, adapter, merged = right
    proof = prove(merged, base, adapter)
    assert proof.facts["weights"] == 14
    assert proof.facts["values"] == sum(
        read_model(merged)[name].count for name in read_model(base) if "proj.weight" in name
    )


# Any magnitude, subnormals of each dtype too; a weight's name says nothing here.
NOTHING = ("merge: every weight is the base's", "merge: the adapter is all zeros")  # which is right where it is so
EXPONENTS = st.integers(-45, 0)


def write(folder, file, tensors):
    folder.mkdir(exist_ok=True)
    specs = [(name, dtype, values.shape) for name, (dtype, values) in tensors.items()]
    with Files() as files:
        for name, tensor in create(folder / file, specs).items():
            raw = np.ascontiguousarray(tensors[name][1].astype(FLOATS[tensor.dtype])).reshape(-1)
            files.write(tensor, 0, raw.view(np.uint8))


@given(st.data())
@settings(max_examples=80)
def test_any_right_merge_passes_and_a_value_that_moved_does_not(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    dtype, into = data.draw(st.sampled_from(["F32", "F16", "BF16"])), data.draw(st.sampled_from(["float16", "base"]))
    rows, columns, rank = (data.draw(st.integers(1, 40)) for _ in range(3))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    sizes = [10.0 ** min(data.draw(EXPONENTS), -3 if shape == 0 else 0) for shape in range(3)]
    w, a, b = (
        random.normal(size=shape).astype(np.float32) * np.float32(size)
        for shape, size in zip([(rows, columns), (rank, columns), (rows, rank)], sizes, strict=True)
    )
    write(folder / "base", "model.safetensors", {"m.layers.0.q.weight": (dtype, w)})
    prefix = "base_model.model.m.layers.0.q.lora_"
    write(
        folder / "adapter",
        "adapter_model.safetensors",
        {f"{prefix}A.weight": ("F32", a), f"{prefix}B.weight": ("F32", b)},
    )
    alpha = data.draw(st.floats(0.125, 8))
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q"], "use_rslora": rank > 9}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (folder / "base" / "config.json").write_text("{}")
    merge(folder / "base", folder / "adapter", folder / "out", dtype=into)
    told = [str(fault) for fault in prove(folder / "out", folder / "base", folder / "adapter", dtype=into).faults]
    assert [line for line in told if not line.startswith(NOTHING)] == []
    tensor = read_model(folder / "out")["m.layers.0.q.weight"]
    scale = alpha / (rank**0.5 if rank > 9 else rank)
    largest = float(np.abs(w).max() + scale * (np.abs(b) @ np.abs(a)).max())
    # Beyond any rounding: of bfloat16 2^-9 of a value, of float16 2^-25, of products that underflow 2^-126 each.
    move(
        tensor, data.draw(st.integers(0, tensor.count - 1)), max(0.02 * largest, {"F16": 1e-7}.get(tensor.dtype, 1e-33))
    )
    told = [str(fault) for fault in prove(folder / "out", folder / "base", folder / "adapter", dtype=into).faults]
    assert any("is not base + scale" in line for line in told)


def move(tensor, at, by):
    """Add to one value of a float tensor."""
    with Files() as files:
        value = files.load(tensor).reshape(-1)[at : at + 1] + np.float32(by)
        raw = value.astype(FLOATS[tensor.dtype]).view(np.uint8)
        files.write(tensor, at * raw.size, raw)
