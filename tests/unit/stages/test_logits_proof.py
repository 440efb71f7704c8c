import pytest
import tiny_models as models

from tunemake.logits_proof import logits_faults, tolerance
from tunemake.stages.merge import merge

ROWS = [[1, 5, 9, 44, 3], [7], list(range(30, 50))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits")
    base = models.llama(folder / "base", tied=True)
    return base, models.adapter(base, folder / "adapter", target_modules=models.LINEAR)


def adapted(base, adapter, dtype="float32"):
    return models.libraries().peft.PeftModel.from_pretrained(models._loaded(base, dtype), adapter)


def told(made, folder, stored, computed="float32"):
    model = models._loaded(folder, computed)
    model.train()
    faults, facts = logits_faults(adapted(*made, computed), model, ROWS, stored=stored)
    assert model.training
    assert facts["positions"] == 26
    return [str(fault) for fault in faults], facts


@pytest.mark.parametrize(
    ("stored", "computed"), [("float32", "float32"), ("bfloat16", "float32"), ("float16", "float32"), ("bfloat16",) * 2]
)
def test_a_right_merge_answers_as_base_and_adapter(made, tmp_path, stored, computed):
    merge(*made, tmp_path / "out", dtype=stored)
    faults, facts = told(made, tmp_path / "out", stored, computed)
    assert faults == []
    assert facts["deviation"] < facts["tolerance"] < facts["effect"]
    assert facts["argmax_agreement"] > 0.8
    if computed == "float32":
        assert facts["deviation"] < facts["tolerance"] / 2


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_merge_with_half_the_scale_is_caught(made, tmp_path, stored):
    base, adapter = made
    half = tmp_path / "half"
    half.mkdir()
    (half / "adapter_model.safetensors").symlink_to(adapter / "adapter_model.safetensors")
    (half / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    models.edit(half / "adapter_config.json", lora_alpha=6)
    merge(base, half, tmp_path / "out", dtype=stored)
    faults, _ = told(made, tmp_path / "out", stored)
    assert len(faults) == 1
    assert "merge: logits part from those of base and adapter; expected at most" in faults[0]


def test_the_base_in_place_of_the_merged_model_is_caught(made):
    faults, facts = told(made, made[0], "bfloat16")
    assert len(faults) == 1
    assert facts["deviation"] == pytest.approx(facts["effect"])
    assert "the likeliest token agrees at" in faults[0]


def test_logits_that_are_not_finite_and_no_prompts_are_told(made):
    model = models._loaded(made[0], "float32")
    model.lm_head.weight.data[3, 3] = float("nan")
    faults, _ = logits_faults(adapted(*made), model, ROWS, stored="float32")
    assert "got inf of their spread" in str(faults[0])
    assert "no prompts to compare logits with" in str(
        logits_faults(adapted(*made), model, [[]], stored="float32")[0][0]
    )


def test_the_tolerance_grows_with_depth_and_with_what_is_rounded(made):
    config = models._loaded(made[0], "float32").config
    near, far = (tolerance(config, "bfloat16", computed) for computed in ("float32", "bfloat16"))
    assert near < far
    config.num_hidden_layers *= 4
    # Of 10 sites a layer and one of the output, 2 layers have 21 and 8 have 81.
    assert tolerance(config, "bfloat16", "float32") == pytest.approx(near * (81 / 21) ** 0.5)
    assert tolerance(config, "float32", "float32") < 1e-4 < tolerance(config, "float16", "float32") < near
