"""Fused kernels in place of a loaded model's own layers: Liger's, by what the layers are, and torch's attention.

So a model whose code comes with it (InternLM2) has Liger's too. Whoever puts them in holds the model's loss against
that of its own layers; `restore` takes them out again. Liger is optional and runs on GPUs. Imports torch.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.utils.checkpoint import checkpoint
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_TOGETHER = 2048  # tokens whose logits are made together
_ROTARY, _SDPA = "apply_rotary_pos_emb", "sdpa"
Attention = Callable[..., tuple[Tensor, None]]


class Kernels:
    """What was put in place of a model's own layers: by class name, how many."""

    def __init__(self, model: nn.Module) -> None:
        """Put in what fits: Liger's where it is installed, torch's attention without copies; nothing off a GPU."""
        self.used: dict[str, int] = {}
        self._modules: list[nn.Module] = []
        self._functions: list[tuple[types.ModuleType, Callable[..., Any]]] = []
        self._attention: Attention | None = None
        device = next(model.parameters()).device
        self.fused = usable(device)
        for module in model.modules() if self.fused else ():
            if (forward := _norm(module) or _gated(module)) is not None:
                self._note(module)
                self._modules.append(module)
                module.forward = types.MethodType(forward, module)
            if type(module).__name__.endswith("Attention"):
                self._rotate(module)
        asking = [one for one in model.modules() if _asks_transformers(one)]
        if device.type == "cuda" and asking and getattr(model.config, "_attn_implementation", None) == _SDPA:
            self._attention = ALL_ATTENTION_FUNCTIONS[_SDPA]
            ALL_ATTENTION_FUNCTIONS[_SDPA] = without_copies(self._attention)
            self.used["attention without copies"] = len(asking)

    def restore(self) -> None:
        """Let the model compute by its own layers again."""
        for module in self._modules:
            del module.forward
        for source, function in self._functions:
            setattr(source, _ROTARY, function)
        if self._attention is not None:
            ALL_ATTENTION_FUNCTIONS[_SDPA] = self._attention
        self._modules, self._functions, self._attention, self.fused = [], [], None, False

    def _note(self, module: nn.Module) -> None:
        name = type(module).__name__
        self.used[name] = self.used.get(name, 0) + 1

    def _rotate(self, module: nn.Module) -> None:
        source = sys.modules[type(module).__module__]
        own = getattr(source, _ROTARY, None)
        if own is None or not _as_ligers(own):
            return
        from liger_kernel.transformers.rope import liger_rotary_pos_emb

        if own is not liger_rotary_pos_emb:
            self._functions.append((source, own))
            setattr(source, _ROTARY, liger_rotary_pos_emb)
        self._note(module)


def usable(device: torch.device) -> bool:
    """Say whether Liger is installed and a device is one that it runs on."""
    return device.type == "cuda" and importlib.util.find_spec("liger_kernel") is not None


def cross_entropy(hidden: Tensor, head: nn.Module, targets: Tensor, *, fused: bool) -> Tensor:
    """Give the logits' mean cross entropy, in float32. hidden: (tokens, width); targets: (tokens,); fused: by Liger.

    Logits are made of some tokens at a time, and a second time for their gradient: all of them would be the largest
    tensors of a training.
    """
    if fused and type(head) is nn.Linear and len(targets):
        from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

        loss: Tensor = LigerFusedLinearCrossEntropyLoss()(head.weight, hidden, targets, head.bias)
        return loss
    total = hidden.new_zeros((), dtype=torch.float32)
    for some, wanted in zip(hidden.split(_TOGETHER), targets.split(_TOGETHER), strict=True):
        total = total + checkpoint(_summed, head, some, wanted, use_reentrant=False)
    return total / len(targets)


def _summed(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


def without_copies(own: Attention) -> Attention:
    """Give an attention that copies no keys and values for their groups of heads, nor anything to lie contiguously.

    own: transformers' function for torch's attention, which is asked where there is a mask, or where no fused kernel
    would take the tensors as they are. query: (batch, heads, tokens, width), as own has them; gives (batch, tokens,
    heads, width), None.
    """

    def attention(  # noqa: PLR0917 - as transformers calls it
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None,  # noqa: FBT001
        **more: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        causal = query.shape[2] > 1 if is_causal is None else is_causal
        told = SDPAParams(query, key, value, None, dropout, causal, query.shape[1] != key.shape[1])
        # Where flash would do, torch takes it or one that it holds for faster, and never one that makes all scores.
        if attention_mask is not None or not can_use_flash_attention(told):
            return own(module, query, key, value, attention_mask, dropout, scaling, is_causal, **more)
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=causal, scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return out.transpose(1, 2).contiguous(), None

    return attention


def _asks_transformers(module: nn.Module) -> bool:
    """Say whether a module is an attention that looks up in transformers' table how it is computed."""
    name = type(module).__name__
    return name.endswith("Attention") and hasattr(sys.modules[type(module).__module__], "ALL_ATTENTION_FUNCTIONS")


def _as_ligers(own: Callable[..., Any]) -> bool:
    """Say whether a rotary embedding is told cosines and sines of the tokens, as Liger's is.

    Where it must be told positions, those are tables to be looked up by them.
    """
    parameters = inspect.signature(own).parameters
    positions = parameters.get("position_ids")
    told = positions is None or positions.default is not inspect.Parameter.empty
    return told and list(parameters)[:4] == ["q", "k", "cos", "sin"]


def _norm(module: nn.Module) -> Callable[..., Tensor] | None:
    # Gemma's norm, which adds one to its weight, calls its small number otherwise.
    if not type(module).__name__.endswith("RMSNorm") or not hasattr(module, "variance_epsilon"):
        return None
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        out: Tensor = LigerRMSNormFunction.apply(hidden_states, self.weight, self.variance_epsilon, 0.0, "llama", False)
        return out

    return forward


def _gated(module: nn.Module) -> Callable[..., Tensor] | None:
    names = next((names for names in _GATED if all(hasattr(module, name) for name in names)), None)
    if names is None or type(getattr(module, "act_fn", None)) not in _silus():
        return None
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    gate, up, down = names

    def forward(self: Any, x: Tensor) -> Tensor:
        product = LigerSiLUMulFunction.apply(getattr(self, gate)(x), getattr(self, up)(x))
        out: Tensor = getattr(self, down)(product)
        return out

    return forward


def _silus() -> tuple[type[nn.Module], ...]:
    from transformers.activations import ACT2CLS

    found = ACT2CLS["silu"]
    return (nn.SiLU, found if isinstance(found, type) else found[0])
