"""Linear layers that train quickly on CPUs (ours)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fused import fusible
from .onednn import has_onednn, product

#: Multiply-adds below which the way to oneDNN costs more than it saves.
LEAST_MADDS = 1 << 21


class Linear(nn.Linear):
    """torch's linear layer, quick to train on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear``, (..., C) to (..., C'), in training (:func:`fusible`) by oneDNN."""
    if (
        x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= LEAST_MADDS
        and has_onednn()
        and fusible(x)
    ):
        # In two dimensions: of more the product would be a view, which nothing could change in place.
        result: Tensor = _Linear.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
        return result.view(*x.shape[:-1], -1)
    return nn.functional.linear(x, weight, bias)


def use_onednn(module: nn.Module) -> None:
    """Make each linear layer in a module of another package one of ours; weights and names stay."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            child.__class__ = Linear


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if of_x else None,
            product(grad.t(), x.t()) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )
