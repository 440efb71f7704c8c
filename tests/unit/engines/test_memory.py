"""The estimate of a training's memory, held against measured peaks and against what torch really keeps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.engines.memory import Shape, Way, adapted, estimate, kept, shape_of, weights

MEASURED = json.loads(Path(__file__).with_name("measured_memory.json").read_text("utf-8"))
LOW, HIGH = 0.90, 1.30  # too little ends a training, too much only costs speed
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
SMALL = Shape(2_000_000, 64, 2, 64, 32, 160, 300, NAMES)


def shape(name):
    told = MEASURED["models"][name]
    return shape_of(told["config"], told["facts"])


@pytest.mark.parametrize("row", MEASURED["rows"], ids=lambda row: f"{row['what']}, {row['batch']}")
def test_it_is_near_what_was_measured(row):
    way = Way(**row["way"])
    on = row.get("checkpointing", False)
    found = estimate(shape(row["model"]), way, row["batch"], row["length"], checkpointing=on).total / 1e9
    assert LOW <= found / row["gb"] <= HIGH, f"{found:.1f} GB"


WAYS = st.builds(
    Way, st.sampled_from(["full", "lora", "qlora"]), st.sampled_from([16, 32]), autocast=st.booleans(),
    fused_loss=st.booleans(), shared=st.booleans(), rank=st.integers(1, 64),
    targets=st.sampled_from(["all-linear", ("q_proj", "v_proj"), ("down_proj",)]), dropout=st.sampled_from([0, 0.1]),
)  # fmt: skip


@given(WAYS, st.integers(1, 64), st.integers(1, 4096), st.booleans())
def test_more_samples_and_longer_ones_take_more(way, batch, length, on):
    here = estimate(SMALL, way, batch, length, checkpointing=on).total
    assert here < estimate(SMALL, way, batch + 1, length, checkpointing=on).total
    assert here < estimate(SMALL, way, batch, length + 1, checkpointing=on).total
    # The whole is what hangs on the tokens and what does not.
    assert estimate(SMALL, way, batch, 2 * length, checkpointing=on) == estimate(
        SMALL, way, 2 * batch, length, checkpointing=on
    )


@given(WAYS, st.integers(1, 64))
def test_checkpointing_takes_less_of_a_deep_model(way, batch):
    deep = replace(SMALL, layers=24)
    off, on = (estimate(deep, way, batch, 512, checkpointing=told) for told in (False, True))
    assert on.terms["activations"] < off.terms["activations"]
    assert {name: on.terms[name] for name in on.terms if name != "activations"} == {
        name: off.terms[name] for name in off.terms if name != "activations"
    }


def test_weights_are_ordered_by_method():
    big = shape("llama-1.9b")
    taken = [sum(weights(big, Way(method, 16, rank=8)).values()) for method in ("qlora", "lora", "full")]
    assert taken == sorted(taken)
    assert weights(big, Way("full", 16))["gradients and optimizer"] == 12 * big.parameters


def test_only_what_is_adapted_keeps_its_input():
    few, every = Way("lora", 16, rank=8, targets=("layers.0.q_proj", "v_proj")), Way("lora", 16, rank=8)
    assert [matrix.name for matrix in adapted(SMALL, few)] == ["q_proj", "v_proj"]
    assert kept(SMALL, few)["inputs"] == 2 * 64
    assert kept(SMALL, every)["inputs"] == 2 * (64 + 64 + 160)  # what the attention gives, it keeps itself


def test_what_it_says():
    found = estimate(shape("llama-1.9b"), Way("lora", 16, rank=64, fused_loss=True), 8, 1024, checkpointing=False)
    assert found.told() == "weights 3.8 GB, adapter 1.1 GB, activations 16.4 GB, logits 168 MB"


def test_shapes_of_other_architectures():
    facts = {"parameters": 10**6, "hidden_size": 64, "layers": 2, "vocabulary": 300, "matrices": ["wqkv", "wo", "w1"]}
    assert shape_of({}, facts) is None
    found = shape_of({"n_head": 4}, facts)
    assert found is not None
    assert (found.queries, found.keys, found.intermediate, found.experts) == (64, 64, 256, 1)
    many = {"num_attention_heads": 4, "head_dim": 32, "num_local_experts": 8, "num_experts_per_tok": 2,
            "moe_intermediate_size": 32, "intermediate_size": 512}  # fmt: skip
    mixed = shape_of(many, facts)
    assert mixed is not None
    assert (mixed.queries, mixed.intermediate, mixed.experts, mixed.active) == (128, 32, 8, 2)
    whole = [sum(m.rows * m.columns * m.times for m in adapted(one, Way("full", 16))) for one in (found, mixed)]
    assert whole[1] - whole[0] == (64 * (128 + 2 * 128) + 128 * 64 + 8 * 64 * 32) - (64 * 192 + 64 * 64 + 64 * 256)


def really_kept(model, tokens, *, batch):
    """Give the bytes of the tensors that torch keeps for the backward pass of one iteration, weights left out."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its place could be given to another
        return tensor

    alive: list[torch.Tensor] = []
    ids = torch.randint(0, 300, (batch, tokens))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    return sum(found.values())


ADAPTERS = {"lora": (NAMES[:-1], 0), "two of its layers": (NAMES[:1] + NAMES[2:3], 0), "dropout": (NAMES[:-1], 0.1)}


@pytest.mark.parametrize("method", ["full", *ADAPTERS])
def test_it_counts_what_torch_keeps(method):
    """On the CPU in float32: a real Llama, with a real adapter of PEFT's."""
    from tunemake.cures import install_cures

    install_cures()
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=256, intermediate_size=704, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=4, use_cache=False, attn_implementation="sdpa",
        )
    )  # fmt: skip
    parameters = model.num_parameters()
    way = Way("full", 32)
    if method != "full":
        targets, dropout = ADAPTERS[method]
        way = Way("lora", 32, rank=8, targets=targets, dropout=dropout)
        told = LoraConfig(r=8, target_modules=list(targets), lora_dropout=dropout, task_type="CAUSAL_LM")
        model = get_peft_model(model, told)
    shaped = Shape(parameters, 256, 3, 256, 128, 704, 300, NAMES)
    found = estimate(shaped, way, 2, 128, checkpointing=False).terms
    # The loss keeps one of the logits' copies; the others stand beside it for a moment.
    assert LOW <= found["activations"] / (really_kept(model, 128, batch=2) - 2 * 128 * 300 * 4) <= HIGH
