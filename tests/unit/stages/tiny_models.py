"""Tiny random models and adapters, made and merged by transformers and PEFT themselves."""

import json
import warnings
from functools import cache
from types import SimpleNamespace

from tunemake.cures import install_cures

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@cache
def libraries():
    """Import torch, transformers and peft, whatever they warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        install_cures()
        import peft
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
    return SimpleNamespace(torch=torch, peft=peft, transformers=transformers)


def llama(folder, *, tied=False, dtype="bfloat16", shard="5GB", **values):
    lib = libraries()
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "vocab_size": 200}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = lib.transformers.LlamaConfig(**{**sizes, **heads, "tie_word_embeddings": tied, **values})
    return _saved(lib.transformers.LlamaForCausalLM(config), folder, dtype, shard)


def gpt2(folder, *, dtype="float32"):
    lib = libraries()
    config = lib.transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=200, n_positions=64)
    return _saved(lib.transformers.GPT2LMHeadModel(config), folder, dtype, "5GB")


def _saved(model, folder, dtype, shard):
    torch = libraries().torch
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def adapter(base, folder, *, size=0.2, **values):
    """Save an adapter for base whose every trainable value is random."""
    lib = libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _loaded(base, "float32")
        config = lib.peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM", **values})
        model = lib.peft.get_peft_model(model, config)
        lib.torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                lib.torch.nn.init.normal_(parameter, std=size)
        model.save_pretrained(folder)
    return folder


def merged_by_peft(base, adapter, dtype="auto"):
    """Give the state dict of PEFT's merge_and_unload, in the dtype's precision."""
    lib = libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lib.peft.PeftModel.from_pretrained(_loaded(base, dtype), adapter)
        return model.merge_and_unload().state_dict()


def logits(folder, *, adapter=None, dtype="float32"):
    """Give the logits for some tokens, through the adapter where one is named."""
    lib = libraries()
    with warnings.catch_warnings(), lib.torch.no_grad():
        warnings.simplefilter("ignore")
        model = _loaded(folder, dtype)
        if adapter:
            model = lib.peft.PeftModel.from_pretrained(model, adapter)
        return model.eval()(lib.torch.arange(24).reshape(2, 12)).logits


def _loaded(folder, dtype):
    lib = libraries()
    wanted = dtype if dtype == "auto" else getattr(lib.torch, dtype)
    return lib.transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=wanted)


def tensors_of(folder):
    """Give all tensors of a model folder as safetensors' own library reads them."""
    libraries()
    from safetensors.torch import load_file

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
