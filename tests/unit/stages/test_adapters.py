"""An adapter on a loaded model answers as the merged model will, and leaves the base as it was."""

import tiny_models
import torch
from transformers import AutoModelForCausalLM

from tunemake.adapters import adapted, merge_for_good
from tunemake.generation import Answers
from tunemake.stages.merge import merge

IDS = torch.tensor([[3, 14, 15, 9, 2, 6]])


def loaded(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    return Answers(model.eval(), None, {})


def logits(model):
    with torch.no_grad():
        return model.model(input_ids=IDS).logits


def check(tmp_path, **values):
    base, adapter, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    tiny_models.llama(base, tied=True, dtype="float32")
    tiny_models.adapter(base, adapter, **values)
    merge(base, adapter, merged)
    model, wanted = loaded(base), logits(loaded(merged))
    before = logits(model)
    assert not torch.allclose(before, wanted, atol=1e-3)
    with adapted(model, adapter) as tuned:
        torch.testing.assert_close(logits(tuned), wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(model), before)
    with adapted(model, adapter) as again:
        torch.testing.assert_close(logits(again), wanted, atol=1e-4, rtol=1e-4)
    merge_for_good(model, adapter)
    torch.testing.assert_close(logits(model), wanted, atol=1e-4, rtol=1e-4)


def test_on_linear_layers(tmp_path):
    check(tmp_path, target_modules=["q_proj", "v_proj"])


def test_on_embeddings_that_the_output_is_tied_to(tmp_path):
    check(tmp_path, target_modules=["embed_tokens", "q_proj"])
