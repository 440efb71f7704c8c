"""Makes a base model of random weights at InternLM2-1.8B's sizes, as a Llama or as InternLM2 with its own code."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

SIZES = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "vocab_size": 92_544,
    "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 4096,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 49_152,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
# A random model's padding token has an embedding of zeros, and a row that begins with zeros has no finite gradient.
_PAD = 49_151  # stands in no text of the benchmark
_CODE = ("configuration_internlm2.py", "modeling_internlm2.py")


def make(folder: Path, architecture: str, sizes: dict[str, int], tokenizer: Path) -> None:
    """Write config, bf16 weights in shards of 2 GB, and the tokenizer of another model's folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    folder.mkdir(parents=True)
    for file in (*tokenizer.glob("tokenizer*"), *tokenizer.glob("special_tokens_map.json")):
        shutil.copy(file, folder)
    if architecture == "internlm2":
        _write_internlm2(folder, sizes)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    else:
        config = LlamaConfig(**sizes, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=_PAD)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, torch_dtype=torch.bfloat16, trust_remote_code=True)
    model.save_pretrained(folder, max_shard_size="2GB")
    if architecture == "internlm2":  # save_pretrained names the module path of this process
        _write_internlm2(folder, sizes)


def _write_internlm2(folder: Path, sizes: dict[str, int]) -> None:
    package = find_spec("xtuner")
    assert package is not None
    assert package.origin is not None
    for name in _CODE:
        shutil.copy(Path(package.origin).parent / "_lite" / "modelings" / "internlm2" / name, folder / name)
    code = {"AutoConfig": "configuration_internlm2.InternLM2Config"}
    code |= dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), "modeling_internlm2.InternLM2ForCausalLM")
    told = {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "auto_map": code, **sizes}
    told |= {"bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": _PAD, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    from tunemake.cures import install_cures

    install_cures()
    make(Path(sys.argv[1]), sys.argv[2], SIZES if sys.argv[3] == "1.9b" else TINY, Path(sys.argv[4]))
