"""Time the merge: cp, tunemake, PEFT and XTuner on the same random model, interleaved, each in its own process.

    python bench/merge.py [--model small|1.9b] [--rank 64] [--rounds 5]

Prints a Markdown table and adds it to bench/results/merge-<date>.md. Times include a sync of the disk.
PEFT is spared the imports for images that tunemake spares itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import measure

SIZES = {
    "small": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "vocab_size": 32_000},
    "1.9b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "vocab_size": 92_544},
}
SHARD = 2 * 10**9

MAKE = """
import sys; sys.path.insert(0, {bench!r}); import merge
from pathlib import Path; merge.make(Path({folder!r}), {size!r}, {rank})
"""
OURS = """
from pathlib import Path; from tunemake.stages.merge import merge
merge(Path({base!r}), Path({adapter!r}), Path({out!r}))
"""
PEFT = """
from tunemake.cures import install_cures; install_cures()
from peft import PeftModel; from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({base!r}, torch_dtype="auto", low_cpu_mem_usage=True)
merged = PeftModel.from_pretrained(model, {adapter!r}).merge_and_unload()
merged.save_pretrained({out!r}, max_shard_size="2GB")
"""


def make(folder: Path, size: str, rank: int) -> None:
    """Write a random bf16 Llama folder and an adapter on all its linear layers; runs in a process of its own."""
    import numpy as np

    from tunemake.model_folder import create_weights, group
    from tunemake.tensors import FLOATS, Files, create

    sizes = SIZES[size]
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    _write_texts(base, adapter, sizes, rank)
    linear, others = _shapes(sizes)
    weights = [(f"{name}.weight", "BF16", shape) for name, shape in (others | linear).items()]
    targets = create_weights(base, group(weights, SHARD))
    factors = []
    for name, (rows, columns) in linear.items():
        factors += [(f"base_model.model.{name}.lora_A.weight", "F32", (rank, columns))]
        factors += [(f"base_model.model.{name}.lora_B.weight", "F32", (rows, rank))]
    targets |= create(adapter / "adapter_model.safetensors", factors)
    random = np.random.default_rng(0)
    with Files() as files:
        for tensor in targets.values():
            values = random.standard_normal(tensor.count, np.float32) * np.float32(0.02)
            files.write(tensor, 0, values.astype(FLOATS[tensor.dtype]).view(np.uint8))


def _shapes(sizes: dict[str, int]) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Give the shapes of the linear layers, and of everything else."""
    hidden, inner, words = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    linear: dict[str, tuple[int, ...]] = {}
    others: dict[str, tuple[int, ...]] = {"model.embed_tokens": (words, hidden)}
    for number in range(sizes["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        for name, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2), ("o", hidden)):
            linear[f"{layer}.self_attn.{name}_proj"] = (rows, hidden)
        linear |= {f"{layer}.mlp.gate_proj": (inner, hidden), f"{layer}.mlp.up_proj": (inner, hidden)}
        linear[f"{layer}.mlp.down_proj"] = (hidden, inner)
        others |= {f"{layer}.input_layernorm": (hidden,), f"{layer}.post_attention_layernorm": (hidden,)}
    return linear, others | {"model.norm": (hidden,), "lm_head": (words, hidden)}


def _write_texts(base: Path, adapter: Path, sizes: dict[str, int], rank: int) -> None:
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8}
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}
    told = {**llama, **sizes, **heads, "tie_word_embeddings": False}
    (base / "config.json").write_text(json.dumps(told))
    words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    (base / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    names = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank}
    (adapter / "adapter_config.json").write_text(json.dumps({**lora, "target_modules": names}))


def commands(folder: Path) -> dict[str, list[str]]:
    """Give the contenders by name; {out} is where each writes."""
    base, adapter = str(folder / "base"), str(folder / "adapter")
    paths = {"base": base, "adapter": adapter, "out": str(folder / "out")}
    xtuner = [sys.executable, "-m", "tunemake.engines.xtuner_process", "merge", base, adapter, paths["out"]]
    return {
        "cp -r": ["cp", "-r", base, paths["out"]],
        "tunemake": [sys.executable, "-c", OURS.format(**paths)],
        "PEFT merge_and_unload": [sys.executable, "-W", "ignore", "-c", PEFT.format(**paths)],
        "XTuner merge (fp16)": [*xtuner, "--device", "cpu", "--max-shard-size", "2GB"],
    }


def main() -> None:
    """Make the model, run the rounds, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {"bench": str(measure.ROOT / "bench"), "folder": name, "size": chosen.model, "rank": chosen.rank}
        measure.run([sys.executable, "-c", MAKE.format(**values)], folder / "out", folder / "log")
        results = measure.interleaved(commands(folder), chosen.rounds, folder / "out", folder / "log")
        size = sum(path.stat().st_size for path in (folder / "base").iterdir()) / 1e9
    what = f"- model: {chosen.model}, {size:.2f} GB bf16, random; adapter: rank {chosen.rank} on all linear layers"
    measure.publish("Merge", [what, *measure.circumstances(), "", *measure.table(results, "cp -r")])


if __name__ == "__main__":
    main()
