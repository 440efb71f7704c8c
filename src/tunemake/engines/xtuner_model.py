"""XTuner's model, made fast: weights in the training's own type, one product for layer and adapter, fused kernels.

XTuner casts a base to float32 before it trains an adapter, and autocast casts every weight back at every step. Here
the base stays as it was loaded and nothing is cast but the adapter's small matrices, whose weights and optimizer
states are float32. Imported by XTuner's process alone.
"""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from typing import Any

import torch
from mmengine import print_log
from mmengine.device import get_device
from mmengine.dist import all_reduce
from mmengine.runner import load_checkpoint
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.integrations import is_deepspeed_zero3_enabled
from xtuner.model import SupervisedFinetune
from xtuner.model.utils import find_all_linear_names
from xtuner.parallel.sequence import get_sequence_parallel_world_size

from tunemake.engines.kernels import Kernels, cross_entropy
from tunemake.engines.lora_product import fuse

# How far two losses of the same tokens may be apart: bfloat16 rounds a token's by some hundredths, and their mean by
# the less the more there are.
_SAME, _TOKEN = 0.004, 0.05
# What a config says where its model's loss is more than the cross entropy of what the head gives.
_OWN_LOSS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_router_logits")
_UNTRAINED = -100  # torch's own number for a token without a part in the loss


class FastFinetune(SupervisedFinetune):  # type: ignore[misc]
    """Trains what SupervisedFinetune trains, to the same losses within rounding.

    Two rows of the first batch are computed both ways: a model that comes to another loss by the faster layers trains
    by its own, and the log says so.
    """

    llm: Any
    lora: Any
    _kernels: Kernels | None = None
    _plain = False

    def _dispatch_lm_model_cfg(self, cfg: Any, max_position_embeddings: int | None = None) -> Any:
        """Ask a model whose own code chooses the slowest attention for torch's."""
        cfg = super()._dispatch_lm_model_cfg(cfg, max_position_embeddings)
        if cfg.get("attn_implementation") is None and cfg.get("trust_remote_code"):
            path = cfg.pretrained_model_name_or_path
            config = AutoConfig.from_pretrained(path, trust_remote_code=True)
            code = getattr(config, "auto_map", {}).get("AutoModelForCausalLM")
            slow = code is not None and getattr(config, "attn_implementation", None) == "eager"
            if slow and getattr(get_class_from_dynamic_module(code, path), "_supports_sdpa", False):
                cfg.attn_implementation = "sdpa"
        return cfg

    def _prepare_for_lora(self, peft_model: str | None = None, *_: Any) -> None:
        """Freeze the base as it is and add the adapter."""
        self.llm.requires_grad_(False)
        if self.lora.target_modules is None:
            self.lora.target_modules = find_all_linear_names(self.llm)
        # Random numbers and casts for the adapter of a model of 2 billion parameters take seconds on a CPU. Under
        # ZeRO-3 the weights are parted as they are made.
        apart, device = is_deepspeed_zero3_enabled(), get_device()
        if not apart and not getattr(self.llm, "is_quantized", False):
            self.llm.to(device)
        with nullcontext() if apart else torch.device(device):
            self.llm = get_peft_model(self.llm, self.lora)
        # The product does not call the layer whose weight it reads, and ZeRO-3 would not gather it.
        fused = 0 if is_deepspeed_zero3_enabled() else fuse(self.llm)
        print_log(f"{fused} adapted layers compute by one product", "current")
        if peft_model is not None:
            load_checkpoint(self, peft_model)

    def compute_loss(self, data: dict[str, Tensor], _samples: None = None) -> dict[str, Tensor]:
        """Give {"loss": the mean over the trained tokens}. data: input_ids, labels, attention_mask, position_ids."""
        if get_sequence_parallel_world_size() > 1:
            told: dict[str, Tensor] = super().compute_loss(data)
            return told
        if self._kernels is None and not self._plain:
            self._prove(data)
        return {"loss": self.llm(**data).loss if self._plain else self._loss(data)}

    def _loss(self, data: dict[str, Tensor]) -> Tensor:
        """Compute logits of the trained tokens alone: those of all others have no part in the loss."""
        assert self._kernels is not None
        model, given = self._model(), dict(data)
        targets = given.pop("labels")[:, 1:]
        trained = targets != _UNTRAINED
        hidden = model.get_decoder()(**given, use_cache=False)[0][:, :-1][trained]
        return cross_entropy(hidden, model.get_output_embeddings(), targets[trained], fused=self._kernels.fused)

    def _prove(self, data: dict[str, Tensor]) -> None:
        """Hold the loss of two rows of the batch against the model's own; under ZeRO-3 leave all as it is.

        ZeRO-3 gathers weights when their layers are called, in the order that it once saw. Processes of one training
        come to the same end.
        """
        if is_deepspeed_zero3_enabled() or any(getattr(self._model().config, name, None) for name in _OWN_LOSS):
            self._plain = True
            return
        counts = (data["labels"] != _UNTRAINED).sum(1)
        most = counts.topk(min(2, len(counts)))
        rows, training = {name: value[most.indices] for name, value in data.items()}, self.training
        self.eval()
        with torch.no_grad():
            own = float(self.llm(**rows).loss)
            self._kernels = Kernels(self.llm)
            fast = float(self._loss(rows)) if hasattr(self._model(), "get_decoder") else math.inf
        self.train(training)
        told = f"loss of two rows: {own:.4f} by the model's own layers, {fast:.4f} by"
        bound = _SAME * abs(own) + _TOKEN / math.sqrt(max(1, int(most.values.sum())))
        unlike = torch.tensor([int(not abs(own - fast) <= bound)])
        all_reduce(unlike, "max")
        self._plain = bool(unlike)
        if self._plain:
            self._kernels.restore()
            print_log(f"{told} faster ones, which do not fit this model and are left out", "current", logging.WARNING)
        else:
            used = ", ".join(f"{count} {name}" for name, count in sorted(self._kernels.used.items()))
            print_log(f"{told} faster ones; fused: {used or 'none'}", "current")

    def _model(self) -> nn.Module:
        found = self.llm.get_base_model() if self.use_lora else self.llm
        assert isinstance(found, nn.Module)
        return found
