import json
import math

import numpy as np
import pytest

from tunemake.faults import ModelError
from tunemake.lora import LoraConfig, read_lora_config
from tunemake.lora_changes import Change, read_changes, tied_pair
from tunemake.tensors import Files, create, read_header

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "c_proj", "embed_tokens"]}
PATH = "base_model.model."


@pytest.fixture
def written(tmp_path):
    """Write adapter_config.json."""

    def write(**values):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**CONFIG, **values}))
        return tmp_path / "adapter_config.json"

    return write


def test_defaults_of_peft_are_read(written):
    # What PEFT itself writes for a plain LoraConfig, every key of it.
    path = written(
        alora_invocation_tokens=None, alpha_pattern={}, arrow_config=None, auto_mapping=None, bias="none",
        base_model_name_or_path=None, corda_config=None, ensure_weight_tying=False, eva_config=None,
        exclude_modules=None, fan_in_fan_out=False, inference_mode=True, init_lora_weights=True, kasa_config=None,
        layer_replication=None, layers_pattern=None, layers_to_transform=None, loftq_config={}, lora_bias=False,
        lora_dropout=0.1, lora_ga_config=None, megatron_config=None, megatron_core="megatron.core",
        modules_to_save=None, monteclora_config=None, peft_version="0.21.2", qalora_group_size=16, rank_pattern={},
        revision=None, target_parameters=None, task_type="CAUSAL_LM", trainable_token_indices=None, use_bdlora=None,
        use_dora=False, use_qalora=False, use_rslora=False, velora_config=None,
    )  # fmt: skip
    assert read_lora_config(path) == LoraConfig(4, 8, targets=("q_proj", "c_proj", "embed_tokens"))


REFUSED = {
    "use_dora": True,
    "lora_bias": True,
    "layer_replication": [[0, 2]],
    "target_parameters": ["experts.gate_up_proj"],
    "trainable_token_indices": [1],
    "megatron_config": {"a": 1},
    "loftq_config": {"loftq_bits": 4},
    "corda_config": {"cache_file": "x"},
    "lora_ga_config": {"direction": "x"},
    "use_qalora": True,
    "alora_invocation_tokens": [1, 2],
    "use_bdlora": {"nblocks": 2},
    "kasa_config": {"beta": 1e-4},
    "velora_config": {"scale": 1.0},
    "monteclora_config": {"x": 1},
    "arrow_config": {"top_k": 3},
    "ensure_weight_tying": True,
    "something_of_next_year": 3,
    "another": "yes",
}


def test_everything_that_changes_a_merge_is_refused_by_name_at_once(written):
    with pytest.raises(ModelError) as caught:
        read_lora_config(written(**REFUSED))
    for key, value in REFUSED.items():
        assert f"{key} cannot be merged; got {json.dumps(value)}" in str(caught.value)


BEGINNINGS = ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "mica"]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_beginnings_that_change_the_base_are_refused(written, beginning):
    with pytest.raises(ModelError, match="init_lora_weights changes the base model's weights; got"):
        read_lora_config(written(init_lora_weights=beginning))


@pytest.mark.parametrize("beginning", [True, False, "gaussian", "eva", "orthogonal"])
def test_other_beginnings_are_read(written, beginning):
    assert read_lora_config(written(init_lora_weights=beginning, eva_config={"rho": 2.0})).r == 4


WRONG = {
    "r is no rank; expected a whole number above 0, got 0": {"r": 0},
    "r is no rank; expected a whole number above 0, got None": {"r": None},
    "lora_alpha is no scale": {"lora_alpha": "8"},
    r"rank_pattern\.q_proj is no rank": {"rank_pattern": {"q_proj": 1.5}},
    r"alpha_pattern\.q_proj is no scale": {"alpha_pattern": {"q_proj": None}},
    "bias is unknown": {"bias": "some"},
    "rank_pattern has an invalid regular expression": {"rank_pattern": {"(": 3}},
    "peft_type cannot be merged; expected LORA, got IA3": {"peft_type": "IA3"},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_values_are_told(written, message):
    with pytest.raises(ModelError, match=message):
        read_lora_config(written(**WRONG[message]))


def test_a_config_that_is_no_json_object_is_told(written):
    path = written()
    path.write_text("[]")
    with pytest.raises(ModelError, match="no JSON object"):
        read_lora_config(path)
    path.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_lora_config(path)


def test_the_first_pattern_that_matches_at_a_dot_counts():
    config = LoraConfig(8, 16, rank_pattern={r"0\..*q_proj": 2, "q_proj": 4}, alpha_pattern={"q_proj": 1})
    assert config.rank("model.layers.0.self_attn.q_proj") == 2
    assert config.rank("model.layers.1.self_attn.q_proj") == 4
    assert config.rank("model.layers.1.self_attn.wq_proj") == 8
    assert config.rank("q_proj.inner") == 8
    assert config.scale("model.layers.1.self_attn.q_proj") == 1 / 4
    assert config.scale("k_proj") == 2
    assert LoraConfig(8, 16, rslora=True).scale("k_proj") == 16 / math.sqrt(8)


@pytest.fixture
def changes(tmp_path, written):
    """Read what an adapter with tensors of these shapes does to a base with those."""

    def read(adapter, base, base_config=None, **values):
        written(**values)
        for path in (tmp_path / "base", tmp_path / "adapter_model.safetensors"):
            path.unlink(missing_ok=True)
        create(tmp_path / "base", [(name, "BF16", shape) for name, shape in base.items()])
        specs = [(PATH + name, "F32", shape) for name, shape in adapter.items()]
        create(tmp_path / "adapter_model.safetensors", specs)
        return read_changes(tmp_path, read_header(tmp_path / "base"), base_config or {})

    return read


def lora(module, inner, outer, rank=4):
    return {f"{module}.lora_A.weight": (rank, inner), f"{module}.lora_B.weight": (outer, rank)}


def test_a_matrix_gets_its_factors(changes):
    found, untied = changes(lora("l.q_proj", 6, 10), {"l.q_proj.weight": (10, 6), "l.norm.weight": (6,)})
    assert not untied
    assert list(found) == ["l.q_proj.weight"]
    change = found["l.q_proj.weight"]
    assert (change.dtype, change.scale, change.transposed) == ("BF16", 2.0, False)
    assert change.a.shape == (4, 6)


def test_square_weights_follow_fan_in_fan_out_unless_others_contradict(changes):
    square, wide = lora("l.c_proj", 6, 6), lora("l.q_proj", 6, 10)
    base = {"l.c_proj.weight": (6, 6), "l.q_proj.weight": (6, 10)}
    assert not changes(square, base)[0]["l.c_proj.weight"].transposed
    assert changes(square, base, fan_in_fan_out=True)[0]["l.c_proj.weight"].transposed
    assert changes(wide, base)[0]["l.q_proj.weight"].transposed
    assert changes(square | wide, base, fan_in_fan_out=True)[0]["l.c_proj.weight"].transposed
    with pytest.raises(ModelError, match="fan_in_fan_out is False, and the other weights show"):
        changes(square | wide, base)


MISFITS = {
    "l.q_proj does not fit; expected rank 4 for weights [10, 6], got A [4, 7] and B [10, 4]": lora("l.q_proj", 7, 10),
    "l.q_proj does not fit; expected rank 4 for weights [10, 6], got A [5, 6] and B [10, 5]": lora(
        "l.q_proj", 6, 10, 5
    ),
    "m.q_proj matches no tensor of the base model": lora("m.q_proj", 6, 10),
    "l.k_proj is not among target_modules": lora("l.k_proj", 6, 10),
    "l.q_proj has only one of lora_A and lora_B": {"l.q_proj.lora_A.weight": (4, 6)},
    "l.norm.weight is neither LoRA nor named by modules_to_save or bias": {"l.norm.weight": (6,)},
    "l.q_proj.lora_magnitude_vector is neither LoRA nor": {"l.q_proj.lora_magnitude_vector": (10,)},
    "conv.q_proj does not fit": lora("conv.q_proj", 6, 10),
}


def test_every_adapter_tensor_without_a_place_is_refused_at_once(changes):
    base = {"l.q_proj.weight": (10, 6), "l.k_proj.weight": (10, 6), "l.norm.weight": (6,)}
    base |= {"conv.q_proj.weight": (10, 6, 3)}
    for message, adapter in MISFITS.items():
        with pytest.raises(ModelError) as caught:
            changes(adapter, base)
        assert message in str(caught.value)
    several = lora("m.q_proj", 6, 10) | lora("l.k_proj", 6, 10) | {"l.norm.weight": (6,)}
    with pytest.raises(ModelError) as caught:
        changes(several, base)
    assert len(caught.value.faults) == 3


def test_saved_modules_and_biases_are_whole_tensors(changes):
    base = {"l.q_proj.weight": (10, 6), "l.q_proj.bias": (10,), "l.o.bias": (6,), "score.weight": (2, 6)}
    adapter = lora("l.q_proj", 6, 10) | {"l.q_proj.base_layer.bias": (10,), "score.weight": (2, 6)}
    found, _ = changes(adapter, base, bias="lora_only", modules_to_save=["score"])
    assert found["l.q_proj.bias"].source.name == PATH + "l.q_proj.base_layer.bias"
    assert found["score.weight"].a is None
    assert "l.o.bias" in changes(adapter | {"l.o.bias": (6,)}, base, bias="all", modules_to_save=["score"])[0]
    for told, message in (({"l.o.bias": (6,)}, "neither LoRA"), ({"score.weight": (3, 6)}, "does not fit the base")):
        with pytest.raises(ModelError, match=message):
            changes(adapter | told, base, bias="lora_only", modules_to_save=["score"])
    with pytest.raises(ModelError, match="matches no tensor of the base model"):
        changes({"l.score.weight": (2, 6)}, base, modules_to_save=["score"])


def test_an_embedding_beside_its_lora_is_its_new_source(changes):
    adapter = {"embed_tokens.lora_embedding_A": (4, 9), "embed_tokens.lora_embedding_B": (6, 4)}
    adapter["embed_tokens.base_layer.weight"] = (9, 6)
    base = {"embed_tokens.weight": (9, 6), "lm_head.weight": (9, 6)}
    found, untied = changes(adapter, base, {"tie_word_embeddings": False})
    assert not untied
    assert found["embed_tokens.weight"].source.name == PATH + "embed_tokens.base_layer.weight"
    assert found["embed_tokens.weight"].transposed
    found, untied = changes(adapter, {"embed_tokens.weight": (9, 6)})
    assert untied
    assert found["lm_head.weight"] == Change("BF16", found["lm_head.weight"].source)
    assert found["lm_head.weight"].source.name == "embed_tokens.weight"


def test_a_tied_output_whose_name_cannot_be_told_is_refused(changes):
    base = {"language.model.embed_tokens.weight": (9, 6)}
    adapter = {"language.model.embed_tokens.weight": (9, 6)}
    with pytest.raises(ModelError, match="is tied to an output whose name cannot be told"):
        changes(adapter, base, modules_to_save=["embed_tokens"])


def test_which_embeddings_are_tied():
    def base(*names):
        return dict.fromkeys(names)

    both = base("model.embed_tokens.weight", "lm_head.weight")
    pair = ("model.embed_tokens.weight", "lm_head.weight")
    assert tied_pair(both, {}) is None
    assert tied_pair(both, {"tie_word_embeddings": True}) == pair
    assert tied_pair(base(pair[0]), {}) == pair
    assert tied_pair(base(pair[0]), {"tie_word_embeddings": False}) is None
    assert tied_pair(base("model.tok_embeddings.weight"), {}) == ("model.tok_embeddings.weight", "output.weight")
    assert tied_pair(base("a.wte.weight", "b.wte.weight"), {}) is None


def test_other_faults_of_an_adapters_file(tmp_path, written):
    written()
    create(tmp_path / "adapter_model.safetensors", [("other.q_proj.lora_A.weight", "F32", (4, 6))])
    with pytest.raises(ModelError, match=r"other\.q_proj\.lora_A\.weight does not begin with base_model\.model\."):
        read_changes(tmp_path, {}, {})
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="missing; save the adapter as safetensors"):
        read_changes(tmp_path, {}, {})
    with Files() as files:
        made = create(tmp_path / "adapter_model.safetensors", [(PATH + "q_proj.lora_A.weight", "I64", (4, 6))])
        files.write(next(iter(made.values())), 0, np.zeros(192, np.uint8))
    with pytest.raises(ModelError, match="is I64, no float"):
        read_changes(tmp_path, {}, {})
