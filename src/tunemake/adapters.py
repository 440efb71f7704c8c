"""Trained weights on a loaded model: an adapter, for a while or for good, or a whole checkpoint; uses torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunemake.checkpoints import load_weights
from tunemake.faults import Fault, StageError
from tunemake.generation import Answers

LLM = "llm."  # XTuner's SupervisedFinetune keeps the model under this name


@contextmanager
def adapted(model: Answers, folder: Path) -> Iterator[Answers]:
    """Put an adapter on a model for a while: merged into its weights, which is how it will be, and faster.

    The weights that it changes wait on the CPU and come back as they were; taking it off again would round them.
    folder: PEFT's.
    """
    import torch

    wrapped = _wrapped(model, folder)
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module.get_base_layer() for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]
    own = [(weight, weight.detach().to("cpu", copy=True)) for layer in layers for weight in layer.parameters()]
    wrapped.merge_adapter(safe_merge=True)
    wrapped.eval()
    try:
        yield Answers(wrapped, model.tokenizer, model.template)
    finally:
        wrapped.unload()
        with torch.no_grad():
            for weight, before in own:
                weight.copy_(before)


def merge_for_good(model: Answers, folder: Path) -> None:
    """Merge an adapter into a loaded model, which then answers as fast as any. folder: PEFT's."""
    model.model = _wrapped(model, folder).merge_and_unload(safe_merge=True)
    model.model.eval()


def load_whole(model: Answers, checkpoint: Path) -> None:
    """Give a model the weights of a full fine-tuning's checkpoint; raises StageError where some are missing."""
    weights = {name.removeprefix(LLM): tensor for name, tensor in load_weights(checkpoint).items()}
    lacking = model.model.load_state_dict(weights, strict=False)
    own = {name for name, _ in model.model.named_parameters()}  # a tied output is there once
    if missing := sorted(own.intersection(lacking.missing_keys)):
        raise StageError(Fault(checkpoint.name, f"{missing[0]} is missing", got=f"{len(missing)} weights missing"))


def _wrapped(model: Answers, folder: Path) -> Any:
    # PEFT imports bitsandbytes, which warns on each machine without a GPU; nothing here has its layers.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from peft import PeftModel

    _untie(model.model, json.loads((folder / "adapter_config.json").read_text("utf-8")))
    return PeftModel.from_pretrained(model.model, folder)


def _untie(model: Any, config: dict[str, Any]) -> None:
    """Give the output its own copy of weights that it shares with the embeddings, where the adapter changes either."""
    import torch

    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or output.weight is not embeddings.weight:
        return
    ends = {name.rpartition(".")[2] for name, module in model.named_modules() if module in (output, embeddings)}
    targets = config["target_modules"]
    named = {targets} if isinstance(targets, str) else {name.rpartition(".")[2] for name in targets}
    if ends & named:
        output.weight = torch.nn.Parameter(output.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False  # else PEFT warns of what was just cured
