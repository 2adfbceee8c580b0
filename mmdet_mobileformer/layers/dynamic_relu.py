"""Dynamic ReLU, driven by the Former's tokens (paper section 3.3; spatial-aware form: section 5)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..kernels.build import kernels_loaded


def token_mixture(logits: Tensor, out_size: tuple[int, int], mask: Tensor | None = None) -> Tensor:
    """Share of each token at each output position, for the spatial-aware dynamic ReLU.

    Args:
        logits: Scaled Mobile→Former logits before their softmax, (N, heads, T, H, W).
        out_size: The block's output grid (H', W'); smaller than (H, W) in a stride-2 block.
        mask: Padding mask of the input grid, (N, H, W), True where padded. Pooling windows then
            average over their valid cells only.

    Returns:
        (N, T, H'*W'), summing to one over T.
    """
    logits = logits.mean(dim=1)
    if out_size != tuple(logits.shape[-2:]):
        if mask is None:
            logits = F.adaptive_avg_pool2d(logits, out_size)
        else:
            valid = (~mask).unsqueeze(1).to(logits.dtype)
            share = F.adaptive_avg_pool2d(valid, out_size)
            pooled = F.adaptive_avg_pool2d(logits * valid, out_size)
            # A window without any valid cell is itself padding: whatever finite value will do.
            logits = pooled / share.clamp(min=1e-6)
    return logits.flatten(2).softmax(dim=1)


class DynamicReLU(nn.Module):
    """``y = max(a1 * x, a2 * x)`` with slopes computed from tokens.

    ``theta = hard_sigmoid(Linear(ReLU(Linear(z))))``, ``a1 = 2 * theta1`` in [0, 2] and
    ``a2 = 2 * theta2 - 1`` in [-1, 1]; no intercepts. Starting weights near zero make it the plain
    ReLU.

    Args:
        channels: Channels C of the features.
        token_dim: Width d of a token.
        reduction: Squeeze ratio of the hidden layer.
    """

    def __init__(self, channels: int, token_dim: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(token_dim, token_dim // reduction)
        self.expand = nn.Linear(token_dim // reduction, 2 * channels)

    def slopes(self, tokens: Tensor) -> Tensor:
        """Slopes of each token: (N, T, d) to (N, T, 2C), a1 in the first C and a2 in the rest."""
        theta = F.hardsigmoid(self.expand(F.relu(self.squeeze(tokens))))
        a1, a2 = theta.chunk(2, dim=-1)
        return torch.cat((2 * a1, 2 * a2 - 1), dim=-1)

    def act(self, tokens: Tensor, mixture: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the activation is made of: the slopes of the tokens that are read, (N, 2C, T), and
        ``mixture`` as it is; see :meth:`forward`."""
        return self.slopes(tokens if mixture is not None else tokens[:, :1]).transpose(1, 2), mixture

    def forward(self, x: Tensor, tokens: Tensor, mixture: Tensor | None = None) -> Tensor:
        """Apply the activation.

        Args:
            x: Features (N, C, H, W).
            tokens: Tokens after the Former, (N, T, d).
            mixture: (N, T, H*W) of :func:`token_mixture` for the spatial-aware form; None for the
                classification form, which reads the first token alone.

        Returns:
            (N, C, H, W).
        """
        table, mixture = self.act(tokens, mixture)
        if torch.is_grad_enabled() and not x.is_meta:
            y: Tensor = _MixedSlopes.apply(x, table, mixture)  # type: ignore[no-untyped-call]
            return y
        a1, a2 = _mix(table, mixture, x).chunk(2, dim=1)
        return torch.maximum(a1 * x, a2 * x)


def _mix(table: Tensor, mixture: Tensor | None, like: Tensor) -> Tensor:
    """Slopes per position, (N, 2C, H, W) or (N, 2C, 1, 1), in the precision of ``like``."""
    if mixture is None:
        return table.unsqueeze(-1).to(like.dtype)
    slopes = table.to(like.dtype) @ mixture.to(like.dtype)
    return slopes.unflatten(2, like.shape[-2:])


def _compiled(*tensors: Tensor) -> bool:
    """Whether the compiled kernels can do it: they mix in registers, forward and backward."""
    return (
        kernels_loaded()
        and not torch.compiler.is_compiling()
        and len({t.dtype for t in tensors}) == 1
        and tensors[0].dtype in (torch.float32, torch.float64)
        # Not the fake tensors that count a model's cost.
        and all(type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" for t in tensors)
        and tensors[0].numel() > 0
    )


class _MixedSlopes(torch.autograd.Function):
    """``max(a1 * x, a2 * x)`` that keeps x, the table and the mixture for the backward pass.

    Autograd would keep the slopes of every position and both products, four times the size of x,
    and compare them again. Where both products are equal it takes the second slope's gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, mixture: Tensor | None) -> Tensor:
        """x (N, C, H, W), table (N, 2C, T), mixture (N, T, H*W) or None to (N, C, H, W)."""
        ctx.save_for_backward(x, table, mixture)
        if mixture is not None and _compiled(x, table, mixture):
            one, zero = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
            y: Tensor = torch.ops.mobileformer.norm_act(
                x.contiguous(), one, zero, table.contiguous(), mixture.contiguous(), math.inf
            )
            return y
        a1, a2 = _mix(table, mixture, x).chunk(2, dim=1)
        return torch.maximum(a1 * x, a2 * x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of x, table and mixture."""
        x, table, mixture = ctx.saved_tensors
        if mixture is not None and _compiled(x, table, mixture, grad):
            x, table, mixture = (t.contiguous() for t in (x, table, mixture))
            one, zero = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
            # A copy, which becomes the gradient of x.
            grad_x = grad.clone(memory_format=torch.contiguous_format)
            _, _, grad_table, grad_mixture = torch.ops.mobileformer.norm_act_backward_(
                grad_x, x, one, zero, zero, table, mixture, math.inf
            )
            return grad_x, grad_table, grad_mixture
        a1, a2 = _mix(table, mixture, x).chunk(2, dim=1)
        # Positions where the first product is the larger one.
        first = (a1 > a2) ^ (x < 0)
        grad_x = torch.where(first, a1, a2).mul_(grad)
        both = grad * x
        of_first = both * first
        of_slopes = torch.cat((of_first, both.sub_(of_first)), dim=1).flatten(2)
        if mixture is None:
            return grad_x, of_slopes.sum(dim=2, keepdim=True).to(table.dtype), None
        grad_table = (of_slopes @ mixture.to(x.dtype).transpose(1, 2)).to(table.dtype)
        grad_mixture = (table.to(x.dtype).transpose(1, 2) @ of_slopes).to(mixture.dtype)
        return grad_x, grad_table, grad_mixture
