"""Merging onto a base that came back from 4 bits, and the proof of it."""

import math

import numpy as np
import pytest
import tiny_models as tiny

from tunemake import nf4
from tunemake.dequantised_base import DequantisedBase, dequantise_loaded
from tunemake.faults import InputError, ModelError
from tunemake.merge_proof import prove
from tunemake.model_record import dequantised_of
from tunemake.stages.merge import merge
from tunemake.tensors import FLOATS, Files, read_model

pytestmark = pytest.mark.slow

Q1 = "model.layers.1.self_attn.q_proj.weight"


def linear(base):
    return frozenset(name for name in read_model(base) if "proj.weight" in name)


def whole(tensor, precision):
    """Give a weight after 4 bits, of the whole of it at once."""
    loaded = nf4.through(tensor.float().numpy().reshape(-1), precision)
    return nf4.through(nf4.dequantised(loaded, 0, nf4.scales_of(nf4.largest(loaded))), precision).reshape(tensor.shape)


@pytest.fixture(scope="module", params=[("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("bfloat16", "float32")],
                ids="-".join)  # fmt: skip
def made(request, tmp_path_factory):
    """A base of one type, trained in another, with an adapter on some of its linear layers."""
    folder, (dtype, precision) = tmp_path_factory.mktemp("made"), request.param
    # 33 columns: blocks of 64 run over the ends of rows.
    base = tiny.llama(folder / "base", dtype=dtype, intermediate_size=99, hidden_size=132, num_key_value_heads=4)
    adapter = tiny.adapter(base, folder / "adapter", target_modules=["q_proj", "down_proj"])
    onto = DequantisedBase(linear(base), precision)
    merge(base, adapter, folder / "merged", onto=onto)
    return base, adapter, folder / "merged", onto


def faults(made, merged, **values):
    base, adapter, _, onto = made
    return [
        str(fault) for fault in prove(merged, base, adapter, four_bits=(onto.names, onto.precision), **values).faults
    ]


def test_each_linear_weight_is_dequantised_with_the_adapter_added(made):
    base, adapter, merged, onto = made
    before, after, factors = (tiny.tensors_of(folder) for folder in (base, merged, adapter))
    moved = size = 0.0
    for name, tensor in before.items():
        if name not in onto.names:
            assert tensor.equal(after[name])
            continue
        wanted = whole(tensor, onto.precision).astype(np.float64)
        moved += float(((wanted - tensor.double().numpy()) ** 2).sum())
        size += float((tensor.double() ** 2).sum())
        stem = "base_model.model." + name.removesuffix("weight")
        if f"{stem}lora_A.weight" in factors:
            a, b = (factors[f"{stem}lora_{side}.weight"].double().numpy() for side in "AB")
            wanted = wanted + 3 * (b @ a)
        rounded = wanted.astype(np.float32).astype(FLOATS[read_model(base)[name].dtype])
        got = after[name].float().numpy()
        assert (got != rounded.astype(np.float32)).mean() < 1e-3  # but for sums that float32 rounds the other way
        np.testing.assert_allclose(got, rounded.astype(np.float32), rtol=2**-7, atol=1e-6)
    assert onto.distance() == pytest.approx(math.sqrt(moved / size), rel=1e-6)
    assert 0.07 < onto.distance() < 0.1


def test_it_is_proven(made):
    assert faults(made, made[2]) == []


def test_the_base_of_its_own_is_no_base_dequantised(made, tmp_path):
    base, adapter, *_ = made
    merge(base, adapter, tmp_path / "out")
    told = faults(made, tmp_path / "out")
    assert any("q_proj.weight is not base + scale · B·A" in line for line in told)
    assert any("k_proj.weight is not the base's, dequantised from 4 bits" in line for line in told)
    assert [str(fault) for fault in prove(made[2], base, adapter).faults]  # and the other way round


def test_another_precision_is_caught(made, tmp_path):
    base, adapter, _, onto = made
    other = DequantisedBase(onto.names, "float16" if onto.precision == "bfloat16" else "bfloat16")
    merge(base, adapter, tmp_path / "out", onto=other, dtype="float32")
    assert faults(made, tmp_path / "out", dtype="float32")


def test_a_level_beside_the_right_one_is_caught(made, tmp_path):
    base, adapter, _, onto = made
    merge(base, adapter, tmp_path / "out", onto=onto)
    tensor = read_model(tmp_path / "out")[Q1]
    with Files() as files:
        raw = np.empty(2, np.uint8)
        files.read(tensor, 0, raw)
        value = raw.view(FLOATS[tensor.dtype])
        value[:] = float(value[0]) + 0.02  # the first row is always looked at
        files.write(tensor, 0, raw)
    assert [line.split(":")[1] for line in faults(made, tmp_path / "out")] == [f" {Q1} is not base + scale · B·A"]


def test_blocks_do_not_change_the_result(made, tmp_path, monkeypatch):
    base, adapter, merged, onto = made
    right = tiny.tensors_of(merged)
    for block, piece in ((100, 1000), (33, 1)):
        monkeypatch.setattr("tunemake.merged_weights.BLOCK", block)
        monkeypatch.setattr("tunemake.merged_weights.PIECE", piece)
        again = DequantisedBase(onto.names, onto.precision)
        merge(base, adapter, tmp_path / f"{block}", onto=again)
        cut = tiny.tensors_of(tmp_path / f"{block}")
        assert all((tensor != cut[name]).double().mean() < 1e-3 for name, tensor in right.items())
        assert again.distance() == pytest.approx(onto.distance(), rel=1e-9)


def test_a_model_of_torch_is_given_the_same_values(made):
    base, _, _, onto = made
    lib = tiny.libraries()
    model = lib.transformers.AutoModelForCausalLM.from_pretrained(base, torch_dtype=lib.torch.float32)
    dequantise_loaded(model, onto.names, onto.precision)
    for name, tensor in tiny.tensors_of(base).items():
        wanted = whole(tensor, onto.precision) if name in onto.names else tensor.float().numpy()
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), wanted)


def test_a_weight_that_the_base_lacks_is_told(made, tmp_path):
    base, adapter, *_ = made
    with pytest.raises(ModelError, match=r"gone\.weight: was trained in 4 bits, and the base has no such"):
        merge(base, adapter, tmp_path / "out", onto=DequantisedBase({"model.gone.weight"}, "bfloat16"))


@pytest.mark.parametrize(
    "onto", [5, {}, {"precision": "int8", "weights": []}, {"precision": "float32", "weights": [1]}]
)
def test_a_record_that_says_it_otherwise_is_told(onto, tmp_path):
    with pytest.raises(InputError, match=r"tunemake\.json: not a record that this version understands"):
        dequantised_of(tmp_path, {"onto": onto})


def test_no_other_tensor_passes_for_a_weight_in_4_bits(made):
    base, adapter, merged, onto = made
    norm = "model.norm.weight"
    proof = prove(merged, base, adapter, four_bits=(onto.names | {norm}, onto.precision))
    assert proof.faults == ()  # it is the base's, and was compared as that


def test_an_adapter_of_zeros_is_caught(tmp_path):
    base = tiny.llama(tmp_path / "base")
    adapter = tiny.adapter(base, tmp_path / "adapter", size=0.0, target_modules=["q_proj"])
    onto = DequantisedBase(linear(base), "bfloat16")
    merge(base, adapter, tmp_path / "out", onto=onto)
    told = faults((base, adapter, None, onto), tmp_path / "out")
    assert told == ["merge: the adapter is all zeros: the merged model is its base; train longer"]
