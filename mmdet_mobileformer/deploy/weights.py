"""BatchNorm, channel shuffles and groups folded into the weights of convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..layers import ConvBN, DynamicReLU, LiteBottleneck
from ..layers.blocks import DownsampleBlock, MobileBlock
from .parts import FoldedSlopes, MobileWeights


def fold_batchnorm(part: ConvBN) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with its BatchNorm, as evaluation mode computes it."""
    bn: Any = part.bn
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    weight = part.conv.weight * scale[:, None, None, None]
    return weight.detach(), (bn.bias - bn.running_mean * scale).detach()


def shuffled(channels: int, groups: int) -> Tensor:
    """Which channel stands at each place after ``channel_shuffle``."""
    return torch.arange(channels).view(groups, -1).t().flatten()


def fold_pointwise(part: ConvBN) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias; groups become one matrix with zeros, a shuffle its row order.

    A grouped product of few channels fills no vector: the zeros cost less than the groups save.
    """
    weight, bias = fold_batchnorm(part)
    groups = part.conv.groups
    dense = torch.block_diag(*weight.flatten(1).chunk(groups))
    if part.shuffle > 1:
        order = shuffled(len(bias), part.shuffle)
        dense, bias = dense[order], bias[order]
    return dense, bias


def fold_depthwise(part: ConvBN, shuffle: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Filters (F, C, 3, 3), biases (F, C), and the place of each in the model's order of channels.

    Filter by filter, every vector of outputs reads neighbouring inputs.

    Args:
        part: The depthwise convolution with its BatchNorm and, in 26m, its shuffle.
        shuffle: Groups of a shuffle after the activation.
    """
    weight, bias = fold_batchnorm(part)
    channels = part.conv.in_channels
    filters = len(bias) // channels
    place = torch.arange(len(bias))
    groups = max(part.shuffle, shuffle)
    if groups > 1:
        place = torch.argsort(shuffled(len(bias), groups))
    weight = weight.view(channels, filters, 3, 3).transpose(0, 1)
    return weight, bias.view(channels, filters).t(), place.view(channels, filters).t().flatten()


def fold_slopes(relu: DynamicReLU, place: Tensor | None, compiled: bool) -> FoldedSlopes:
    """The slopes of a dynamic ReLU, its channels taken in the order of ``place``."""
    weight, bias = relu.expand.weight.detach(), relu.expand.bias.detach()
    if place is not None:
        both = torch.cat((place, place + len(bias) // 2))
        weight, bias = weight[both], bias[both]
    return FoldedSlopes(weight, bias, compiled)


def lite_weights(block: LiteBottleneck, activation: str) -> MobileWeights:
    """A lite bottleneck."""
    depthwise, bias, place = fold_depthwise(block.depthwise, block.shuffle)
    pointwise, pointwise_bias = fold_pointwise(block.pointwise)
    return MobileWeights(
        depthwise, bias, pointwise[:, place], pointwise_bias, activation, block.stride,
        residual="source" if block.residual else "none",
    )


def mobile_weights(block: MobileBlock) -> tuple[MobileWeights, tuple[Tensor | None, Tensor | None]]:
    """A stride-1 Mobile, and the order of the channels of both dynamic ReLUs."""
    depthwise, bias, place = fold_depthwise(block.depthwise)
    pointwise, pointwise_bias = fold_pointwise(block.project)
    first, first_bias = fold_pointwise(block.expand)
    weights = MobileWeights(
        depthwise, bias, pointwise[:, place], pointwise_bias, "dynamic", 1, "expand", first,
        first_bias, "given" if block.residual else "none",
    )
    return weights, (None, place)


def downsample_weights(
    block: DownsampleBlock,
) -> tuple[MobileWeights, MobileWeights, tuple[Tensor, Tensor]]:
    """Both halves of a stride-2 Mobile, and the order of the channels of both dynamic ReLUs."""
    halves: list[MobileWeights] = []
    places: list[Tensor] = []
    for depthwise, project in (
        (block.depthwise1, block.project1), (block.depthwise2, block.project2)
    ):
        filters, bias, place = fold_depthwise(depthwise)
        pointwise, pointwise_bias = fold_pointwise(project)
        halves.append(
            MobileWeights(
                filters, bias, pointwise[:, place], pointwise_bias, "dynamic",
                depthwise.conv.stride[0], residual="source" if halves else "none",
            )
        )
        places.append(place)
    return halves[0], halves[1], (places[0], places[1])
