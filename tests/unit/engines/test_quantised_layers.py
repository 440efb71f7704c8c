"""Which weights 4 bits keep, held against what transformers and bitsandbytes make of real models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from tunemake.engines.quantised_layers import quantised_weights
from tunemake.faults import ModelError

pytestmark = pytest.mark.slow

THEIRS = """
import json, sys
from tunemake.cures import install_cures
install_cures()
import torch, transformers, xtuner.model
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
told = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4")
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], quantization_config=told, torch_dtype=torch.float32, trust_remote_code=True)
print(json.dumps([f"{name}.weight" for name, one in model.named_modules() if isinstance(one, Linear4bit)]))
"""


def theirs(folder, bitsandbytes):
    path = os.pathsep.join([str(bitsandbytes), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", THEIRS, str(folder)]
    told = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    ).stdout
    return set(json.loads(told.splitlines()[-1]))


@pytest.mark.parametrize("kind", ["tied", "apart", "code of its own"])
def test_they_are_those_that_transformers_chooses(tmp_path, kind, bitsandbytes, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    if kind == "code of its own":
        tiny.write_internlm2(folder)
    else:
        tiny.write_llama(folder, tied=kind == "tied")
    found = quantised_weights(folder, trust_remote_code=True)
    assert found == theirs(folder, bitsandbytes)
    assert len(found) == (10 if kind == "code of its own" else 14)


def test_weights_that_are_kept_turned_round_are_refused(tmp_path):
    import transformers

    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20, n_positions=8)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ModelError, match=r"c_attn\.weight: is kept turned round in the base.*original"):
        quantised_weights(tmp_path / "gpt2", trust_remote_code=False)


def test_a_model_that_cannot_be_built_is_told_in_a_line(tmp_path):
    Path(tmp_path / "config.json").write_text('{"model_type": "of tomorrow"}')
    with pytest.raises(ModelError, match="which weights 4 bits keep cannot be told") as told:
        quantised_weights(tmp_path, trust_remote_code=False)
    assert "\n" not in str(told.value.faults[0])
