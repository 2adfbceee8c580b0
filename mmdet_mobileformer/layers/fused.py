"""Depthwise and pointwise convolution, with what stands around them, as one step of training on CPUs (ours).

Autograd keeps what each convolution, BatchNorm and activation reads: up to six maps as wide as the
widest of the block. Here the input alone is kept, and the rest computed again in the backward pass, by
compiled kernels that read and write each map once. Values and gradients are those of the modules;
where the kernels do not apply (:func:`fusible`), the modules themselves run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional, Union, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..kernels.build import kernels_loaded
from .onednn import has_onednn, product

#: Floats of an image's map from which its gradient is quicker as a product, although images are put together.
WIDE = 1 << 21


def fusible(x: Tensor, *modules: nn.Module) -> bool:
    """Whether the kernels of training can stand in for these modules on ``x``.

    They are used once something has loaded them (:func:`kernels_available`), to train in one precision
    on a CPU, where nobody watches: a forward hook on a module, as those that look for the first NaN
    or count operations, has to see what it returns.

    Args:
        x: Features (N, C, H, W), or a tensor of another shape for what is no convolution.
        modules: The modules that would not be called.
    """
    return (
        kernels_loaded()
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        # Of one value per channel BatchNorm says what is wrong with it; of none there is nothing to do.
        and x.numel() > (x.shape[1] if x.dim() == 4 else 0)
        and all(_plain(module, x.dtype) for module in modules)
    )


def _plain(module: nn.Module, dtype: torch.dtype) -> bool:
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return False
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        # SyncBatchNorm's statistics are those of all processes.
        return type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats
    return all(p.dtype == dtype for p in module.parameters(recurse=False))


#: An activation: ``(table, mixture)`` of a dynamic ReLU, (N, 2C, T) and (N, T, H*W) or None; or the upper
#: bound of a ReLU, infinite or 6.
Activation = Union[tuple[Tensor, Optional[Tensor]], float]


def separable(
    x: Tensor,
    depthwise: nn.Conv2d,
    norm: nn.BatchNorm2d,
    act: Activation,
    pointwise: nn.Conv2d,
    mask: Tensor | None = None,
    before: tuple[nn.BatchNorm2d, Activation] | None = None,
) -> Tensor:
    """``pointwise(act(norm(depthwise(x))))``, of which only ``x`` is kept for the backward pass.

    Args:
        x: Features (N, C, H, W).
        depthwise: 3x3 convolution without bias, with one or several filters per channel.
        norm: Its BatchNorm; in training the running statistics are updated.
        act: The activation after it.
        pointwise: 1x1 convolution without bias.
        mask: Padding mask (N, H, W), True where ``depthwise`` is to read zeros.
        before: BatchNorm and activation of ``x``, if it is the result of a convolution.

    Returns:
        (N, C', ceil(H / stride), ceil(W / stride)).
    """
    padding = None if mask is None else mask.unsqueeze(1)
    stages = [_Stage.of(norm, act)]
    if before is not None:
        stages.insert(0, _Stage.of(*before))
    tensors = [tensor for stage in stages for tensor in stage.tensors()]
    result: Tensor = _Separable.apply(  # type: ignore[no-untyped-call]
        x, depthwise.weight, pointwise.weight, depthwise.stride[0], padding, stages, *tensors
    )
    return result


@dataclass
class _Stage:
    """A BatchNorm and an activation."""

    norm: nn.BatchNorm2d
    table: Tensor | None
    mixture: Tensor | None
    top: float

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, act: Activation) -> _Stage:
        if isinstance(act, tuple):
            table, mixture = act
            return cls(norm, table.contiguous(), None if mixture is None else mixture.contiguous(), math.inf)
        return cls(norm, None, None, act)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """What has gradients."""
        return self.norm.weight, self.norm.bias, self.table, self.mixture

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1 / deviation of each channel (C,), the batch's or, in evaluation, the running ones."""
        if self.norm.training:
            mean, variance = torch.ops.mobileformer.channel_statistics(x)
            self._track(mean, variance, x.numel() // x.shape[1])
        else:
            mean, variance = cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)
            # A copy: it may change before the backward pass.
            mean = mean.clone()
        return mean, torch.rsqrt(variance + self.norm.eps)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        norm = self.norm
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        share = norm.momentum
        if share is None:
            share = 1.0 / float(norm.num_batches_tracked)  # type: ignore[arg-type]
        norm.running_mean.lerp_(mean, share)  # type: ignore[union-attr]
        norm.running_var.lerp_(variance * (count / (count - 1)), share)  # type: ignore[union-attr]


@dataclass
class _Saved:
    """What a stage needs in the backward pass; tensors of one length per channel, and the activation's."""

    mean: Tensor
    inverse: Tensor
    scale: Tensor
    shift: Tensor
    table: Tensor | None
    mixture: Tensor | None
    top: float
    own: bool

    @classmethod
    def of(cls, stage: _Stage, x: Tensor) -> _Saved:
        mean, inverse = stage.statistics(x)
        scale = stage.norm.weight.detach() * inverse
        shift = stage.norm.bias.detach() - mean * scale
        return cls(
            mean, inverse, scale, shift, stage.table, stage.mixture, stage.top, stage.norm.training
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` normalised and activated."""
        y: Tensor = torch.ops.mobileformer.norm_act(
            x, self.scale, self.shift, self.table, self.mixture, self.top
        )
        return y

    def backward(self, grad: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Gradients of ``x``, in the memory of ``grad``, and of the stage's tensors."""
        ops = torch.ops.mobileformer
        total, weighted, grad_table, grad_mixture = ops.norm_act_backward_(
            grad, x, self.scale, self.shift, self.mean, self.table, self.mixture, self.top
        )
        weighted = weighted * self.inverse
        if self.own:
            # The batch's mean and variance depend on x too.
            count = x.numel() // x.shape[1]
            of_x = -self.scale * self.inverse * weighted / count
            rest = -self.scale * total / count - of_x * self.mean
        else:
            of_x = rest = torch.zeros_like(self.scale)
        ops.normalise_backward_(grad, x, self.scale, of_x, rest)
        return grad, (
            weighted,
            total,
            None if self.table is None else grad_table,
            None if self.mixture is None else grad_mixture,
        )


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        depthwise: Tensor,
        pointwise: Tensor,
        stride: int,
        padding: Tensor | None,
        stages: list[_Stage],
        *tensors: Tensor | None,
    ) -> Tensor:
        x, depthwise = x.contiguous(), depthwise.contiguous()
        first = _Saved.of(stages[0], x) if len(stages) == 2 else None
        inner = _depthwise_input(x, first, padding)
        hidden = torch.ops.mobileformer.depthwise_conv(inner, depthwise, stride)
        del inner
        second = _Saved.of(stages[-1], hidden)
        ctx.save_for_backward(x, depthwise, pointwise)
        ctx.stride, ctx.padding, ctx.first, ctx.second = stride, padding, first, second
        return torch.conv2d(second.forward(hidden), pointwise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, depthwise, pointwise = ctx.saved_tensors
        first: _Saved | None = ctx.first
        second: _Saved = ctx.second
        ops = torch.ops.mobileformer
        inner = _depthwise_input(x, first, ctx.padding)
        hidden = ops.depthwise_conv(inner, depthwise, ctx.stride)
        # One gradient after the other: the activated features are the widest, and then free.
        grad = grad.contiguous()
        grad_pointwise = _pointwise_backward(grad, second.forward(hidden), pointwise, 1)
        grad = _pointwise_backward(grad, hidden, pointwise, 0).contiguous()
        grad, of_second = second.backward(grad, hidden)
        del hidden
        grad, grad_depthwise = ops.depthwise_conv_backward(grad, inner, depthwise, ctx.stride)
        if ctx.padding is not None:
            grad.masked_fill_(ctx.padding, 0.0)
        of_first: tuple[Tensor | None, ...] = ()
        if first is not None:
            grad, of_first = first.backward(grad, x)
        return (grad, grad_depthwise, grad_pointwise, None, None, None, *of_first, *of_second)


def _pointwise_backward(grad: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
    """Gradient of a 1x1 convolution's features (0, which needs their shape alone) or weight (1)."""
    if x.dtype == torch.float32 and grad.is_contiguous() and x.is_contiguous() and has_onednn():
        # As convolutions oneDNN would first bring the maps into a layout of its own.
        if which == 1:
            of_images = [product(g.flatten(1), of.flatten(1)) for g, of in zip(grad, x)]
            return torch.stack(of_images).sum(0).view_as(weight)
        if x[0].numel() >= WIDE:
            transposed = weight.flatten(1).t()
            return torch.stack([product(transposed, g.flatten(1).t()) for g in grad]).view_as(x)
    wanted = [which == 0, which == 1, False]
    result: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, wanted
    )[which]
    return result


def _depthwise_input(x: Tensor, stage: _Saved | None, padding: Tensor | None) -> Tensor:
    """What the depthwise convolution reads; ``x`` itself where nothing is done to it."""
    if stage is not None:
        x = stage.forward(x)
        return x if padding is None else x.masked_fill_(padding, 0.0)
    return x if padding is None else x.masked_fill(padding, 0.0)
