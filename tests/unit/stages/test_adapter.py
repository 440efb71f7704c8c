import json
import pickle
from types import SimpleNamespace

import pytest
import tiny_models as tiny
import tiny_training

from tunemake.faults import ModelError, StageError
from tunemake.stages.adapter import full_model_from_checkpoint, write_adapter

pytestmark = pytest.mark.slow

LORA = {"r": 4, "alpha": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of the real XTuner, with LoRA on all linear layers and an output layer of its own."""
    folder = tmp_path_factory.mktemp("lora")
    base = tiny.llama(folder / "base", tied=True, dtype="float32")
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "modules_to_save": ["lm_head"]}
    config, checkpoint = tiny_training.train(folder / "run", base, lora)
    return SimpleNamespace(folder=folder, base=base, config=config, checkpoint=checkpoint)


def test_the_adapter_is_what_xtuner_itself_converts(trained, tmp_path):
    lora = {**LORA, "modules_to_save": ["lm_head"]}
    write_adapter(trained.checkpoint, lora, "tiny/base", tmp_path / "ours")
    tiny_training.xtuner("pth_to_hf", trained.config, trained.checkpoint, tmp_path / "xtuner", "--safe-serialization")
    ours, theirs = tiny.tensors_of(tmp_path / "ours"), tiny.tensors_of(tmp_path / "xtuner")
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * 7 * 2 + 1
    assert all(tensor.is_floating_point() and tensor.dtype.itemsize == 4 for tensor in ours.values())
    assert all(tensor.half().equal(theirs[name]) for name, tensor in ours.items())
    told, expected = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "xtuner"))
    assert told["base_model_name_or_path"] == "tiny/base"
    expected["target_modules"] = sorted(expected["target_modules"])
    differing = {"base_model_name_or_path", "auto_mapping", "modules_to_save"}
    assert {key: expected[key] for key in told.keys() - differing} == {k: told[k] for k in told.keys() - differing}


def test_peft_reads_the_adapter(trained, tmp_path):
    write_adapter(trained.checkpoint, {**LORA, "modules_to_save": ["lm_head"]}, "tiny", tmp_path)
    merged = tiny.merged_by_peft(trained.base, tmp_path)
    before = tiny.tensors_of(trained.base)
    assert not merged["model.layers.1.mlp.up_proj.weight"].equal(before["model.layers.1.mlp.up_proj.weight"])


@pytest.fixture
def checkpoint(tmp_path):
    """Save tensors as mmengine saves a checkpoint."""

    def save(weights, name="iter_1.pth", **others):
        tiny.libraries().torch.save({"state_dict": weights, "meta": {"iter": 1}, **others}, tmp_path / name)
        return tmp_path / name

    return save


def factors(module="llm.base_model.model.model.layers.0.self_attn.q_proj", rank=4, value=1.0, dtype="float32"):
    torch = tiny.libraries().torch
    kind = getattr(torch, dtype)
    return {
        f"{module}.lora_A.default.weight": torch.ones(rank, 8, dtype=kind),
        f"{module}.lora_B.default.weight": torch.full((8, rank), value, dtype=kind),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values_stay_as_they_are(checkpoint, tmp_path, dtype):
    write_adapter(checkpoint(factors(dtype=dtype)), LORA, "tiny", tmp_path / "out")
    found = tiny.tensors_of(tmp_path / "out")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    assert found[name].equal(next(tensor for key, tensor in factors(dtype=dtype).items() if "lora_B" in key))


def test_everything_that_is_declared_reaches_the_config(checkpoint, tmp_path):
    lora = {"r": 8, "alpha": 3.5, "dropout": 0.1, "targets": ["q_proj"], "rslora": True, "bias": "all"}
    lora |= {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 2}}
    write_adapter(checkpoint(factors()), lora, "tiny", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (told["r"], told["lora_alpha"], told["lora_dropout"]) == (8, 3.5, 0.1)
    assert (told["target_modules"], told["use_rslora"], told["bias"]) == (["q_proj"], True, "all")
    assert (told["rank_pattern"], told["alpha_pattern"]) == ({"q_proj": 4}, {"q_proj": 2})


FAULTY = {
    "no LoRA weights in it; was it a full fine-tuning": ({}, {}),
    "nothing was learnt: every lora_B is zero": ({"value": 0.0}, {}),
    r"lora_B\.weight: 32 values are not finite": ({"value": float("nan")}, {}),
    "another rank; expected 4, got 5": ({"rank": 5}, {}),
    "no weights of modules_to_save's lm_head in it": ({"rank": 4}, {"modules_to_save": ["lm_head"]}),
    "XTuner leaves the biases of lora_only out": ({"rank": 4}, {"bias": "lora_only"}),
}


@pytest.mark.parametrize("message", FAULTY)
def test_a_checkpoint_that_makes_no_adapter_is_told(checkpoint, tmp_path, message):
    values, lora = FAULTY[message]
    with pytest.raises(StageError, match=message):
        write_adapter(checkpoint(factors(**values) if values else {}), {**LORA, **lora}, "tiny", tmp_path / "out")


def test_a_torn_checkpoint_is_told(checkpoint, tmp_path):
    whole = checkpoint(factors()).read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "torn.pth").write_bytes(whole[:size])
        with pytest.raises(StageError, match=r"torn\.pth: torn or no checkpoint of XTuner"):
            write_adapter(tmp_path / "torn.pth", LORA, "tiny", tmp_path / "out")
    with pytest.raises(StageError, match="a DeepSpeed checkpoint"):
        write_adapter(tmp_path, LORA, "tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Runs:
    """Would write a file when unpickled."""

    def __init__(self, function, *arguments):
        self.told = (function, arguments)

    def __reduce__(self):
        return self.told


@pytest.mark.parametrize("function", [eval, exec, __import__, pickle.loads, getattr], ids=lambda f: f.__name__)
def test_code_in_a_checkpoint_does_not_run(checkpoint, tmp_path, function):
    made = tmp_path / "ran"
    argument = {
        "loads": pickle.dumps(Runs(exec, f"open({str(made)!r}, 'w')")),
        "__import__": "antigravity",
    }.get(function.__name__, f"open({str(made)!r}, 'w')")
    evil = Runs(function, str(made), "title") if function is getattr else Runs(function, argument)
    path = checkpoint(factors(), evil=evil)
    if function is getattr:  # mmengine's history has it: it becomes inert
        write_adapter(path, LORA, "tiny", tmp_path / "out")
    else:
        with pytest.raises(StageError, match="holds an object that is no tensor; got"):
            write_adapter(path, LORA, "tiny", tmp_path / "out")
    assert not made.exists()


def test_a_systems_command_in_a_checkpoint_does_not_run(checkpoint, tmp_path):
    import os

    path = checkpoint(factors(), evil=Runs(os.system, f"touch {tmp_path / 'ran'}"))
    with pytest.raises(StageError, match=r"holds an object that is no tensor; got posix\.system"):
        write_adapter(path, LORA, "tiny", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def full(tmp_path):
    """A tied base in bf16 and a checkpoint of all its weights in float32, a little different."""
    base = tiny.llama(tmp_path / "base", tied=True, shard="60KB")
    weights = {f"llm.{name}": tensor.float() + 0.01 for name, tensor in tiny.tensors_of(base).items()}
    weights["llm.lm_head.weight"] = weights["llm.model.embed_tokens.weight"]
    return base, weights


def test_a_full_fine_tuning_becomes_a_model_like_its_base(full, checkpoint, tmp_path):
    base, weights = full
    full_model_from_checkpoint(checkpoint(weights), base, tmp_path / "out")
    ours, before = tiny.tensors_of(tmp_path / "out"), tiny.tensors_of(base)
    assert ours.keys() == before.keys()
    assert all(tensor.equal(weights[f"llm.{name}"].to(before[name].dtype)) for name, tensor in ours.items())
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == len(list(base.glob("*.safetensors"))) > 1
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert tiny.logits(tmp_path / "out").isfinite().all()
    full_model_from_checkpoint(checkpoint(weights), base, tmp_path / "wide", dtype="float32")
    wide = tiny.tensors_of(tmp_path / "wide")
    assert all(tensor.equal(weights[f"llm.{name}"]) for name, tensor in wide.items())
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["torch_dtype"] == "float32"


def test_another_model_than_the_base_is_told_tensor_by_tensor(full, checkpoint, tmp_path):
    base, weights = full
    weights["llm.model.norm.weight"] = weights["llm.model.norm.weight"][:3]
    weights["llm.extra"] = weights.pop("llm.model.layers.0.input_layernorm.weight")
    weights["llm.lm_head.weight"] = weights["llm.lm_head.weight"] + 1
    with pytest.raises(StageError) as caught:
        full_model_from_checkpoint(checkpoint(weights), base, tmp_path / "out")
    told = str(caught.value)
    assert "layers.0.input_layernorm.weight: missing, and the base has it" in told
    assert "extra: not in the base" in told
    assert "lm_head.weight: differs from model.embed_tokens.weight" in told
    assert "model.norm.weight: another shape; expected [64], got [3]" in told


def test_values_beyond_float16_and_nan_are_told(full, checkpoint, tmp_path):
    base, weights = full
    weights["llm.model.norm.weight"][:2] = 1e6
    weights["llm.model.layers.0.input_layernorm.weight"][0] = float("nan")
    with pytest.raises(StageError) as caught:
        full_model_from_checkpoint(checkpoint(weights), base, tmp_path / "out", dtype="float16")
    assert "model.norm.weight: 2 finite values are too large for float16" in str(caught.value)
    assert "input_layernorm.weight: 1 values are not finite" in str(caught.value)
    with pytest.raises(ModelError, match="dtype: unknown"):
        full_model_from_checkpoint(checkpoint(weights), base, tmp_path / "out", dtype="int4")
