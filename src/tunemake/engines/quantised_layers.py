"""Which weights of a model a training in 4 bits quantises, as transformers chooses them; asked in a process of its own.

    python -m tunemake.engines.quantised_layers FOLDER [trust]

The model is built without memory for its weights. torch and transformers stay in that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunemake.cures import install_cures
from tunemake.faults import Fault, ModelError


def quantised_weights(folder: Path, *, trust_remote_code: bool) -> frozenset[str]:
    """Give the names of a model folder's weights that bitsandbytes quantises: of all linear layers but the output.

    ModelError where transformers cannot build the model, or keeps such a weight turned round.
    """
    command = [sys.executable, "-m", "tunemake.engines.quantised_layers", str(folder)]
    done = subprocess.run(
        [*command, *(["trust"] if trust_remote_code else [])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing said"]
        raise ModelError(Fault(str(folder), f"which weights 4 bits keep cannot be told: {said[-1]}"))
    told = json.loads(done.stdout.splitlines()[-1])
    if told["turned"]:
        what = "is kept turned round in the base, and cannot be dequantised by its rows"
        raise ModelError(Fault(told["turned"][0], what, next_step='merge.base = "original" merges it'))
    return frozenset(told["weights"])


def chosen(
    modules: Iterable[tuple[str, Any]], kinds: tuple[type, ...], kept: Iterable[str]
) -> Iterator[tuple[str, Any]]:
    """Give the modules of some kinds that transformers' integration replaces.

    kept: names that it leaves, of a module or of a parent: a module of the last name, or below one of a whole name.
    """
    left = list(kept)
    for name, module in modules:
        if not isinstance(module, kinds) or name.rpartition(".")[2] in left:
            continue
        if not any(f"{one}." in name or one == name for one in left):
            yield name, module


def _told(folder: str, *, trust: bool) -> dict[str, list[str]]:
    install_cures()
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations import get_keys_to_not_convert
    from transformers.pytorch_utils import Conv1D

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    kept = [*get_keys_to_not_convert(model), *(getattr(model, "_keep_in_fp32_modules", None) or [])]
    found = list(chosen(model.named_modules(), (torch.nn.Linear, Conv1D), kept))
    return {
        "weights": [f"{name}.weight" for name, _ in found],
        "turned": [f"{name}.weight" for name, module in found if isinstance(module, Conv1D)],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_told(sys.argv[1], trust="trust" in sys.argv[2:])) + "\n")
