"""Parts of a folded model: channels last, BatchNorm folded, both bridges in the pass over the features.

Maps are (N, H, W, C). Every part computes the same in two ways: by the compiled kernels
(mmdet_mobileformer/kernels), or by torch's operators, which also trace into an export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import LANES, pack_depthwise, pack_matrix, padded
from ..kernels.packing import pack_vector
from ..layers import token_mixture
from .operators import activate, dynamic_relu, gather, mean_scores, read

#: Activations as the kernels number them.
ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2, "dynamic": 3}


@dataclass
class Reading:
    """What features read from tokens (Mobile←Former): keys, scaled, and values, (N, T, C) each."""

    keys: Tensor
    values: Tensor


@dataclass
class Asking:
    """What tokens gather from features (Mobile→Former).

    Attributes:
        queries: Scaled, (N, T, C).
        looks: Further queries (N, heads, T, 4) for ``places``, or None.
        places: Their keys (N or 1, H*W, 4).
        told: How many heads, the first, read by their looks alone, which are the same; zeros are their
            queries, by which the compiled kernels know them.
        mean: Whether the scores' mean over the heads is wanted too, for the dynamic ReLU.
    """

    queries: Tensor
    looks: Tensor | None = None
    places: Tensor | None = None
    told: int = 0
    mean: bool = False


@dataclass
class Cells:
    """What is known of the cells of a map.

    Attributes:
        mask: (N, H, W), True where padded; None if nothing is.
        rows: Sine embedding of the rows, the first half of the channels, (N or 1, H, C / 2).
        columns: Of the columns, the other half, (N or 1, W, C / 2).
    """

    mask: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None


@dataclass
class Bridged:
    """Features (N, H, W, C) after reading, what was asked for (N, T, C), mean scores (N, H*W, T)."""

    x: Tensor
    attended: Tensor
    mean: Tensor


class FoldedLinear(nn.Module):
    """A linear layer, or pointwise convolution, over the last dimension, and an activation.

    Args:
        weight: (out, in).
        bias: (out,).
        activation: ``'none'``, ``'relu'`` or ``'relu6'``.
        compiled: Whether the compiled kernels are used.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, activation: str = "none", compiled: bool = True
    ) -> None:
        super().__init__()
        self.out_channels = len(bias)
        self.activation = activation
        self.compiled = compiled
        self.register_buffer("weight", pack_matrix(weight) if compiled else weight.clone())
        self.register_buffer("bias", pack_vector(bias) if compiled else bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self.compiled:
            kind = ACTIVATIONS[self.activation]
            return torch.ops.mobileformer.linear(
                x.contiguous(), self.weight, self.bias, self.out_channels, kind
            )
        return activate(F.linear(x, self.weight, self.bias), self.activation)


@dataclass
class MobileWeights:
    """Weights of a :class:`FoldedMobile`.

    Attributes:
        depthwise: Filters (F, C, 3, 3), filter by filter, each over all C channels.
        depthwise_bias: (F, C).
        pointwise: (out, F * C); inputs in the filters' order.
        pointwise_bias: (out,).
        activation: After the depthwise convolution.
        stride: Of the depthwise convolution.
        source: Where its input comes from: ``'map'``, the map itself; ``'expand'``, a pointwise
            convolution of it with a dynamic ReLU; ``'stem'``, the stem's convolution of an image;
            ``'resize'``, a coarser map resized.
        first: Weight of ``'expand'`` (C, in) or ``'stem'`` (C, 3, 3, 3).
        first_bias: Its bias (C,).
        residual: ``'none'``, ``'source'`` (the depthwise convolution's input) or ``'given'``.
    """

    depthwise: Tensor
    depthwise_bias: Tensor
    pointwise: Tensor
    pointwise_bias: Tensor
    activation: str
    stride: int = 1
    source: str = "map"
    first: Tensor | None = None
    first_bias: Tensor | None = None
    residual: str = "none"


class FoldedMobile(nn.Module):
    """Depthwise 3x3, activation, pointwise, residual; before it its source, after it both bridges.

    Args:
        weights: The weights.
        heads: Heads of the bridges.
        compiled: Whether the compiled kernels are used.
    """

    depthwise: Tensor
    depthwise_bias: Tensor | None
    pointwise: Tensor
    pointwise_bias: Tensor
    first: Tensor | None
    first_bias: Tensor | None

    def __init__(self, weights: MobileWeights, heads: int, compiled: bool) -> None:
        super().__init__()
        self.source = weights.source
        self.activation = weights.activation
        self.stride = weights.stride
        self.residual = weights.residual
        self.heads = heads
        self.compiled = compiled
        self.filters, self.channels = weights.depthwise_bias.shape
        self.out_channels = len(weights.pointwise_bias)
        if weights.first is None or weights.first_bias is None:
            self.first = self.first_bias = None
        else:
            flat = weights.first.flatten(1)
            self.register_buffer("first", pack_matrix(flat) if compiled else weights.first.clone())
            bias = weights.first_bias
            self.register_buffer("first_bias", pack_vector(bias) if compiled else bias.clone())
        if compiled:
            taps = pack_depthwise(weights.depthwise, weights.depthwise_bias)
            self.register_buffer("depthwise", taps)
            self.depthwise_bias = None
            self.register_buffer("pointwise", pack_matrix(weights.pointwise))
            self.register_buffer("pointwise_bias", pack_vector(weights.pointwise_bias))
        else:
            self.register_buffer("depthwise", weights.depthwise.clone())
            self.register_buffer("depthwise_bias", weights.depthwise_bias.clone())
            self.register_buffer("pointwise", weights.pointwise.clone())
            self.register_buffer("pointwise_bias", weights.pointwise_bias.clone())

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int],
        slopes: tuple[Tensor | None, Tensor | None] = (None, None),
        mixture: Tensor | None = None,
        mask: Tensor | None = None,
        residual: Tensor | None = None,
        cells: Cells | None = None,
        reading: Reading | None = None,
        asking: Asking | None = None,
    ) -> Bridged:
        """Run the part.

        Args:
            x: Map (N, H, W, C), or images (N, 3, H, W) for a stem.
            grid: Height and width of the depthwise convolution's input.
            slopes: Tables (N, T, 2, width) of the source's and the own dynamic ReLU; see
                :class:`FoldedSlopes`.
            mixture: Shares of the tokens (N, H'*W', T); None for one token.
            mask: Padding of the depthwise convolution's input (N, H, W).
            residual: (N, H', W', out) for ``residual='given'``.
            cells: Of the result.
            reading, asking: The bridges after the part.

        Returns:
            The result (N, H', W', out) and what was asked for.
        """
        cells = cells or Cells()
        if not self.compiled:
            y = self._plain(x, grid, slopes, mixture, mask, residual)
            return bridge(y, self.heads, cells, reading, asking, compiled=False)
        dynamic = self.source == "expand"
        results = torch.ops.mobileformer.mobile(
            x.contiguous(), self.source, grid, self.first, self.first_bias,
            ACTIVATIONS["dynamic" if dynamic else "none"], slopes[0], self.depthwise, self.channels,
            self.stride, ACTIVATIONS[self.activation], slopes[1], mixture, self.pointwise,
            self.pointwise_bias, self.out_channels, residual, self.residual == "source", mask,
            cells.mask, *_bridge_arguments(self.heads, cells, reading, asking),
        )
        return Bridged(*results)

    def _plain(
        self,
        x: Tensor,
        grid: tuple[int, int],
        slopes: tuple[Tensor | None, Tensor | None],
        mixture: Tensor | None,
        mask: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        if self.source == "stem":
            x = F.relu6(F.conv2d(x, cast(Tensor, self.first), self.first_bias, 2, 1)).permute(0, 2, 3, 1)
        elif self.source == "resize":
            x = F.interpolate(
                x.permute(0, 3, 1, 2), grid, mode="bilinear", align_corners=False
            ).permute(0, 2, 3, 1)
        elif self.source == "expand":
            x = F.linear(x, cast(Tensor, self.first), self.first_bias)
            x = dynamic_relu(x, slopes[0], mixture)
        if mask is not None:
            x = x.masked_fill(mask.unsqueeze(-1), 0.0)
        y = None
        if self.residual != "none":
            y = x if self.residual == "source" else cast(Tensor, residual)
        rows = x.permute(0, 3, 1, 2)
        for index, weight in enumerate(self.pointwise.split(self.channels, dim=1)):
            own = slice(index * self.channels, (index + 1) * self.channels)
            # Engines fuse a convolution with the activation that follows it at once.
            part = activate(self._filtered(rows, index), self.activation).permute(0, 2, 3, 1)
            if slopes[1] is not None:
                part = dynamic_relu(part, slopes[1][..., own], mixture)
            part = F.linear(part, weight, self.pointwise_bias if index == 0 else None)
            y = part if y is None else y + part
        return cast(Tensor, y)

    def _filtered(self, rows: Tensor, index: int) -> Tensor:
        """One filter of each channel: (N, C, H, W) to (N, C, H', W').

        Filter by filter: no engine has a fast convolution for several filters per channel, and a map
        of all their channels would be put together and taken apart again.
        """
        taps, bias = self.depthwise[index].unsqueeze(1), cast(Tensor, self.depthwise_bias)[index]
        return F.conv2d(rows, taps, bias, self.stride, 1, 1, self.channels)


class FoldedSlopes(nn.Module):
    """The second layer of a dynamic ReLU, giving slopes per token instead of theta.

    Args:
        weight: (2 * C, hidden), in the order of the features.
        bias: (2 * C,).
        compiled: Whether the table is for the compiled kernels, which read beyond its channels.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, compiled: bool) -> None:
        super().__init__()
        channels = len(bias) // 2
        self.width = padded(channels) + LANES if compiled else channels
        # 2 * hard_sigmoid(x) is 1 + clamp(x / 3, -1, 1); the second slope is one less.
        rest = self.width - channels
        pair = F.pad(weight.unflatten(0, (2, -1)) / 3, (0, 0, 0, rest))
        self.register_buffer("weight", pair.flatten(0, 1))
        self.register_buffer("bias", F.pad(bias.unflatten(0, (2, -1)) / 3, (0, rest)).flatten())
        self.register_buffer("shift", bias.new_tensor([[1.0], [0.0]]))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden layer (N, T, hidden), before its ReLU, to a table (N, T, 2, width)."""
        table = F.hardtanh(F.linear(F.relu(hidden), self.weight, self.bias))
        return table.unflatten(-1, (2, self.width)) + self.shift


def mixture_of(
    mean: Tensor, grid: tuple[int, int], stride: int, mask: Tensor | None, compiled: bool
) -> Tensor:
    """Shares of the tokens (N, H'*W', T) from mean scores (N, H*W, T); see ``token_mixture``."""
    height, width = grid
    # Not -(-height // stride): ONNX rounds towards zero.
    out = ((height + stride - 1) // stride, (width + stride - 1) // stride)
    if compiled:
        return torch.ops.mobileformer.token_mixture(mean, height, width, *out, mask)
    scores = mean.transpose(1, 2).unflatten(2, grid).unsqueeze(1)
    return token_mixture(scores, out, mask).transpose(1, 2)


def position_of(cells: Cells, height: int, width: int) -> Tensor | float:
    """Sine embedding (N or 1, H*W, C) of a map's cells; 0 without."""
    if cells.rows is None or cells.columns is None:
        return 0.0
    batch = cells.rows.shape[0]
    rows = cells.rows.unsqueeze(2).expand(batch, height, width, -1)
    columns = cells.columns.unsqueeze(1).expand(batch, height, width, -1)
    return torch.cat((rows, columns), dim=3).flatten(1, 2)


def bridge(
    x: Tensor,
    heads: int,
    cells: Cells,
    reading: Reading | None,
    asking: Asking | None,
    compiled: bool,
) -> Bridged:
    """Let a map (N, H, W, C) read tokens, and tokens gather from the result."""
    if compiled:
        if reading is None and asking is None:
            return Bridged(x, x, x)
        y, attended, mean = torch.ops.mobileformer.bridge(
            x.contiguous(), cells.mask, *_bridge_arguments(heads, cells, reading, asking)
        )
        return Bridged(x if reading is None else y, attended, mean)
    height, width = x.shape[1:3]
    flat = x.flatten(1, 2)
    pos = position_of(cells, height, width)
    if reading is not None:
        flat = flat + read(flat, flat + pos, heads, reading.keys, reading.values)
    if asking is None:
        return Bridged(flat.unflatten(1, (height, width)), flat, flat)
    looks = None
    if asking.looks is not None and asking.places is not None:
        distinct = asking.looks[:, max(asking.told - 1, 0) :]
        looks = distinct @ asking.places.transpose(1, 2).unsqueeze(1)
    attended = gather(flat, flat + pos, heads, asking.queries, looks, cells.mask, asking.told)
    mean = mean_scores(flat + pos, heads, asking.queries) if asking.mean else flat
    return Bridged(flat.unflatten(1, (height, width)), attended, mean)


def _bridge_arguments(
    heads: int, cells: Cells, reading: Reading | None, asking: Asking | None
) -> tuple[int | Tensor | bool | None, ...]:
    return (
        heads,
        None if reading is None else reading.keys.contiguous(),
        None if reading is None else reading.values.contiguous(),
        None if asking is None else asking.queries.contiguous(),
        None if asking is None else asking.looks,
        None if asking is None else asking.places,
        cells.rows,
        cells.columns,
        asking is not None and asking.mean,
    )
