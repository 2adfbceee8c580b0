"""Stochastic depth and dropout. mmcv and timm have the first too, but the backbone must import without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fused import fusible


class Dropout(nn.Dropout):
    """torch's dropout, quick to train on CPUs.

    torch draws its random numbers one by one and keeps the mask. Compiled kernels, where loaded, draw
    one seed from torch's generator and compute what is dropped from it, forward and backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        if self.training and 0 < self.p < 1 and fusible(x):
            result: Tensor = _SeededDropout.apply(x, self.p)  # type: ignore[no-untyped-call]
            return result
        return super().forward(x)


class _SeededDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.p, ctx.seed = p, int(torch.randint(2**62, ()))
        result: Tensor = torch.ops.mobileformer.seeded_dropout(x.contiguous(), p, ctx.seed)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.ops.mobileformer.seeded_dropout(grad.contiguous(), ctx.p, ctx.seed), None


class DropPath(nn.Module):
    """Drops a residual branch per sample (Huang et al. 2016), rescaling what is kept.

    Args:
        prob: Probability of dropping, in [0, 1).

    Raises:
        ValueError: If ``prob`` is outside [0, 1).
    """

    def __init__(self, prob: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= prob < 1.0:
            raise ValueError(f"drop_path_rate is {prob}: give a probability in [0, 1)")
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to (N, ...)."""
        if not self.training or self.prob == 0.0:
            return x
        keep = 1.0 - self.prob
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Show the probability in the module's print."""
        return f"prob={self.prob}"
