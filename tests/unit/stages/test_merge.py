import json
import os

import numpy as np
import pytest
import tiny_models as tiny

from tunemake.faults import ModelError, StageError
from tunemake.stages.merge import merge
from tunemake.tensors import read_header


@pytest.fixture
def merged(tmp_path):
    """Merge, and give what was written, PEFT's result and the result in float64."""

    def run(base, adapter, **values):
        merge(base, adapter, tmp_path / "out", **values)
        dtype = values.get("dtype", "base")
        peft = tiny.merged_by_peft(base, adapter, "auto" if dtype == "base" else dtype)
        return tiny.tensors_of(tmp_path / "out"), peft, tiny.merged_by_peft(base, adapter, "float64")

    return run


def assert_same(ours, peft, exact):
    """Equal to PEFT's but for roundings that fall the other way, and no further from the float64 result."""
    for name, tensor in ours.items():
        assert tensor.dtype == peft[name].dtype, name
        assert tensor.shape == peft[name].shape, name
        here, there = (abs(side.double() - exact[name]) for side in (tensor, peft[name]))
        assert here.max() <= there.max() * 1.01 + 1e-12, name
        assert here.mean() <= there.mean() * 1.01 + 1e-12, name
        # PEFT rounds an embedding's delta before it adds it; what is added here is not rounded.
        if tensor.itemsize == 2 and "embed_tokens" not in name:
            assert (tensor != peft[name]).double().mean() < 1e-3, name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_linear_layers_are_merged_as_peft_does(tmp_path, merged, dtype):
    base = tiny.llama(tmp_path / "base", dtype=dtype)
    ours, peft, exact = merged(base, tiny.adapter(base, tmp_path / "adapter", target_modules=tiny.LINEAR))
    assert ours.keys() == tiny.tensors_of(base).keys()
    assert_same(ours, peft, exact)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


VARIANTS = {
    "rslora": {"target_modules": tiny.LINEAR, "use_rslora": True},
    "patterns": {
        "target_modules": tiny.LINEAR,
        "rank_pattern": {"layers.0.self_attn.q_proj": 7, "v_proj": 2, r"1\.mlp\.(up|down)_proj": 3},
        "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 40},
        "use_rslora": True,
    },
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "regular expression": {"target_modules": r".*\.0\..*(q|v)_proj"},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "modules_to_save": {
        "target_modules": ["o_proj"],
        "modules_to_save": ["lm_head", "embed_tokens", "1.input_layernorm"],
    },
    "bias all": {"target_modules": ["q_proj"], "bias": "all"},
    "bias lora_only": {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_config_can_say_is_merged_as_peft_does(tmp_path, merged, variant):
    base = tiny.llama(tmp_path / "base", attention_bias=True)
    ours, peft, exact = merged(base, tiny.adapter(base, tmp_path / "adapter", **VARIANTS[variant]))
    assert_same(ours, peft, exact)
    before = tiny.tensors_of(base)
    assert any(not tensor.equal(before[name]) for name, tensor in ours.items())


def test_weights_stored_as_in_by_out_are_merged(tmp_path, merged):
    base = tiny.gpt2(tmp_path / "base")
    values = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    ours, peft, exact = merged(base, tiny.adapter(base, tmp_path / "adapter", **values))
    assert_same(ours, peft, exact)


TIED = [
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
]


@pytest.mark.parametrize("values", TIED, ids=str)
def test_tied_embeddings_are_untied_so_that_the_answers_stay_the_adapters(tmp_path, values):
    base = tiny.llama(tmp_path / "base", tied=True, dtype="float32")
    adapter = tiny.adapter(base, tmp_path / "adapter", size=0.05, **values)
    merge(base, adapter, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= tiny.tensors_of(tmp_path / "out").keys()
    expected, got = tiny.logits(base, adapter=adapter), tiny.logits(tmp_path / "out")
    assert abs(expected - got).max() < 1e-4
    assert abs(expected - tiny.logits(base)).max() > 1e-2


def test_tied_embeddings_that_the_adapter_leaves_alone_stay_tied(tmp_path):
    base = tiny.llama(tmp_path / "base", tied=True)
    merge(base, tiny.adapter(base, tmp_path / "adapter", target_modules=tiny.LINEAR), tmp_path / "out")
    assert tiny.tensors_of(tmp_path / "out").keys() == tiny.tensors_of(base).keys()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


def test_shards_are_kept_or_made_anew(tmp_path):
    base = tiny.llama(tmp_path / "base", shard="60KB")
    adapter = tiny.adapter(base, tmp_path / "adapter", target_modules=tiny.LINEAR)
    merge(base, adapter, tmp_path / "kept")
    merge(base, adapter, tmp_path / "one", shard_size=10**9)
    merge(base, adapter, tmp_path / "small", shard_size=40_000)
    kept, one, small = (sorted((tmp_path / name).glob("*.safetensors")) for name in ("kept", "one", "small"))
    assert len(kept) == len(sorted(base.glob("*.safetensors"))) > 1
    assert [path.name for path in one] == ["model.safetensors"]
    assert all(path.stat().st_size < 50_000 for path in small)
    tensors = [tiny.tensors_of(tmp_path / name) for name in ("kept", "one", "small")]
    assert all(tensor.equal(others[name]) for others in tensors for name, tensor in tensors[0].items())
    assert tiny.logits(tmp_path / "small").equal(tiny.logits(tmp_path / "one"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_declared_dtype_is_rounded_to_once(tmp_path, dtype):
    base = tiny.llama(tmp_path / "base", dtype="float32")
    adapter = tiny.adapter(base, tmp_path / "adapter", target_modules=tiny.LINEAR)
    merge(base, adapter, tmp_path / "out", dtype=dtype)
    exact, torch = tiny.merged_by_peft(base, adapter, "float64"), tiny.libraries().torch
    for name, tensor in tiny.tensors_of(tmp_path / "out").items():
        assert tensor.dtype == getattr(torch, dtype)
        differ = (tensor != exact[name].to(tensor.dtype)).double().mean()
        assert differ < (1e-3 if dtype != "float32" else 0.7), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


def test_values_beyond_float16_are_told_by_tensor_and_count(tmp_path):
    base = tiny.llama(tmp_path / "base")
    adapter = tiny.adapter(base, tmp_path / "adapter", size=300.0, target_modules=["q_proj"])
    with pytest.raises(StageError, match=r"0\.self_attn\.q_proj\.weight: \d+ finite values are too large") as caught:
        merge(base, adapter, tmp_path / "out", dtype="float16")
    assert len(caught.value.faults) == 2


def test_an_adapter_with_nan_is_refused(tmp_path):
    base = tiny.llama(tmp_path / "base")
    adapter = tiny.adapter(base, tmp_path / "adapter", size=float("inf"), target_modules=["q_proj"])
    with pytest.raises(StageError, match="values that are not finite"):
        merge(base, adapter, tmp_path / "out")


def test_blocks_do_not_change_the_result(tmp_path, monkeypatch):
    base = tiny.llama(tmp_path / "base")
    adapter = tiny.adapter(base, tmp_path / "adapter", target_modules=tiny.LINEAR)
    merge(base, adapter, tmp_path / "whole")
    for block, piece in ((100, 1000), (64, 64), (33, 1)):
        monkeypatch.setattr("tunemake.merged_weights.BLOCK", block)
        monkeypatch.setattr("tunemake.merged_weights.PIECE", piece)
        merge(base, adapter, tmp_path / f"blocks-{block}")
        whole, cut = tiny.tensors_of(tmp_path / "whole"), tiny.tensors_of(tmp_path / f"blocks-{block}")
        assert all((tensor != cut[name]).double().mean() < 1e-3 for name, tensor in whole.items())


@pytest.fixture
def pair(tmp_path):
    base = tiny.llama(tmp_path / "base")
    return base, tiny.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])


def test_what_a_model_needs_is_copied_and_nothing_else(tmp_path, pair):
    base, adapter = pair
    copied = ["modeling_tiny.py", "merges.txt", "LICENSE", "chat_template.jinja"]
    left = ["README.md", "pytorch_model.bin", "artifact.json", ".secret.json", "pytorch_model.bin.index.json", "x.gguf"]
    for name in copied + left:
        (base / name).write_text("x")
    (base / "inner").mkdir()
    merge(base, adapter, tmp_path / "out")
    expected = {*copied, "config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected


def test_quantised_bases_are_refused_by_name(tmp_path, pair):
    base, adapter = pair
    tiny.edit(base / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="quantised by gptq cannot be merged"):
        merge(base, adapter, tmp_path / "out")


def test_fp8_bases_are_refused_by_name(tmp_path, pair):
    base, adapter = pair
    torch = tiny.libraries().torch
    from safetensors.torch import save_file

    tensors = tiny.tensors_of(base)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.norm\.weight and 0 more tensors are F8_E4M3: fp8 weights cannot"):
        merge(base, adapter, tmp_path / "out")


def test_an_unknown_dtype_and_a_missing_adapter_file_are_refused(tmp_path, pair):
    base, adapter = pair
    with pytest.raises(ModelError, match="dtype: unknown; expected base, float16"):
        merge(base, adapter, tmp_path / "out", dtype="int8")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: missing"):
        merge(base, adapter, tmp_path / "out")


def test_a_torn_base_is_a_fault_and_a_full_disk_too(tmp_path, pair):
    base, adapter = pair
    (tmp_path / "out").write_text("a file where the folder goes")
    with pytest.raises(StageError, match="cannot be written: File exists"):
        merge(base, adapter, tmp_path / "out")
    os.truncate(base / "model.safetensors", 100_000)
    with pytest.raises(ModelError, match="torn or invalid safetensors file"):
        merge(base, adapter, tmp_path / "other")


def test_progress_ends_with_everything_written(tmp_path, pair):
    base, adapter = pair
    seen = []
    merge(base, adapter, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    size = sum(tensor.size for tensor in read_header(tmp_path / "out" / "model.safetensors").values())
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_tensors_that_are_no_floats_are_copied(tmp_path, pair):
    from safetensors.numpy import load_file, save_file

    base, adapter = pair
    mask = {"model.mask": np.arange(10, dtype=np.int64)}
    save_file(mask, base / "model-extra.safetensors")
    names = {name: "model.safetensors" for name in tiny.tensors_of(base) if name != "model.mask"}
    (base / "model.safetensors").rename(base / "model-main.safetensors")
    index = {"weight_map": {**dict.fromkeys(names, "model-main.safetensors"), "model.mask": "model-extra.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    merge(base, adapter, tmp_path / "out", dtype="float32")
    assert load_file(tmp_path / "out" / "model-00001-of-00002.safetensors")["model.mask"].tolist() == list(range(10))
