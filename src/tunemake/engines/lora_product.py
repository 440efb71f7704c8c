"""A linear layer and its low-rank adapter as one product: y = W·x + b + scale · B·(A·x), with gradients to match.

PEFT's own layer casts the whole input to the adapter's type and adds two tensors of the output's size; here the
adapter's small matrices are cast to the input's type and added inside the matrix product. What is kept for the
backward pass is the input, once, and A·x. Imports torch.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Weight = Callable[[torch.dtype], Tensor]


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """The product. x, dropped: (…, inputs), the second after dropout; a: (rank, inputs); b: (outputs, rank)."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch takes them by their places
        ctx: Any, x: Tensor, dropped: Tensor, weight: Weight, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        """Give (…, outputs), of x's type."""
        rows, wide = x.reshape(-1, x.shape[-1]), weight(x.dtype)
        kept = dropped.reshape(-1, x.shape[-1])
        types, a, b = (a.dtype, b.dtype), a.to(x.dtype), b.to(x.dtype)
        small = kept @ a.T
        out = rows @ wide.T if bias is None else torch.addmm(bias.to(x.dtype), rows, wide.T)
        out.addmm_(small, b.T, alpha=scale)
        ctx.save_for_backward(kept, small, a, b)
        ctx.weight, ctx.scale, ctx.same, ctx.types = weight, scale, dropped is x, types
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, dropped, a and b; the layer's own weights are frozen."""
        kept, small, a, b = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        through = rows @ b
        by_a = (through.T @ kept).to(ctx.types[0]).mul_(ctx.scale)
        by_b = (rows.T @ small).to(ctx.types[1]).mul_(ctx.scale)
        shape = (*gradient.shape[:-1], kept.shape[-1])
        by_x = by_dropped = None
        if ctx.needs_input_grad[0]:
            by_x = rows @ ctx.weight(rows.dtype)
            if ctx.same:
                by_x.addmm_(through, a, alpha=ctx.scale)
            by_x = by_x.view(shape)
        if ctx.needs_input_grad[1] and not ctx.same:
            by_dropped = (through @ a).mul_(ctx.scale).view(shape)
        return by_x, by_dropped, None, None, by_a, by_b, None


def fuse(model: nn.Module) -> int:
    """Let every adapted linear layer of a PEFT model compute by one product; give their number.

    Left as they are: layers whose own weights are trained or no plain or 4-bit matrix, and adapters that are not
    plain LoRA (DoRA and the like).
    """
    fused = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and (weight := _weight(module.get_base_layer())) is not None:
            if list(module.lora_A) != ["default"] or module.lora_variant or module.lora_bias.get("default"):
                continue
            module.forward = types.MethodType(_forward, module)
            module.frozen_weight = weight
            fused += 1
    return fused


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand in for the forward of PEFT's layer."""
    if self.disable_adapters or self.merged or args or kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    dropout = self.lora_dropout["default"]
    dropped = x if isinstance(dropout, nn.Identity) or not self.training else dropout(x)
    a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
    bias = self.get_base_layer().bias
    out: Tensor = _Product.apply(x, dropped, self.frozen_weight, bias, a, b, self.scaling["default"])
    return out


def _weight(layer: nn.Module) -> Weight | None:
    """Give what a layer's frozen weight is read by, as a matrix of a given type; None where it cannot be."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.requires_grad:
        return None
    if type(layer) is nn.Linear:
        whole: Weight = layer.weight.to
        return whole
    if type(layer).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        def dequantised(dtype: torch.dtype) -> Tensor:
            return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)

        return dequantised
    return None
