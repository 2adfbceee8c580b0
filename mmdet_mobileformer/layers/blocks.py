"""The Mobile side and the Mobile-Former block (paper sections 3.1 and 3.2, figure 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..archs import BlockSpec
from .attention import Former, FormerToMobile, MobileToFormer
from .drop import DropPath
from .dynamic_relu import DynamicReLU, token_mixture
from .fused import fusible, separable


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded positions of (N, C, H, W), as a convolution's own border would be.

    ``mask`` is (N, H, W), True where padded, or None.
    """
    return x if mask is None else x.masked_fill(mask.unsqueeze(1), 0.0)


def stride2_mask(mask: Tensor | None) -> Tensor | None:
    """Padding mask after a 3x3 convolution of stride 2 and padding 1: that of each window's centre."""
    return None if mask is None else mask[:, ::2, ::2]


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channel groups of (N, C, H, W) (ShuffleNet)."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ExpandingDepthwiseConv(nn.Conv2d):
    """Depthwise 3x3 convolution with several filters per channel, quick to train on CPUs.

    oneDNN has no depthwise kernel for more outputs than inputs, and its grouped backward pass takes
    4 to 10 times as long as repeating the channels first. Weights and results are those of
    ``nn.Conv2d(groups=in_channels)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        expansion = self.out_channels // self.in_channels
        if expansion == 1 or not torch.is_grad_enabled():
            return super().forward(x)
        x = x.repeat_interleave(expansion, dim=1)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.out_channels)


class ConvBN(nn.Module):
    """Convolution without bias, BatchNorm and, in 26m, a channel shuffle.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: 1 or 3; 3 pads by 1.
        stride: 1 or 2.
        groups: Groups of the convolution.
        shuffle: Groups of the channel shuffle after the BatchNorm; 1 for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        shuffle: int = 1,
    ) -> None:
        super().__init__()
        depthwise = kernel_size > 1 and groups == in_channels
        conv = ExpandingDepthwiseConv if depthwise else nn.Conv2d
        self.conv = conv(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.shuffle = shuffle

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, C, H, W) to (N, C', H', W'); a 3x3 convolution sees padded positions as zeros."""
        if self.conv.kernel_size[0] > 1:
            x = zero_padding(x, mask)
        x = self.bn(self.conv(x))
        return x if self.shuffle == 1 else channel_shuffle(x, self.shuffle)


def _depthwise(channels: int, expansion: int, stride: int, shuffled: bool) -> ConvBN:
    """Depthwise 3x3 that also expands: ``expansion`` filters per channel."""
    return ConvBN(
        channels, channels * expansion, 3, stride, groups=channels,
        shuffle=channels if shuffled else 1,
    )


class LiteBottleneck(nn.Module):
    """Block 1: depthwise, ReLU6, pointwise, and the identity residual where shapes agree.

    It has no token side and passes the tokens through.

    Args:
        in_channels: Channels of the input.
        spec: The block's numbers.
        groups: Groups of the pointwise convolution; above 1 the depthwise output is shuffled.
        top: Upper bound of the ReLU: 6 in the backbone, none in the head's M-F- block.
    """

    def __init__(
        self, in_channels: int, spec: BlockSpec, groups: int = 1, top: float = 6.0
    ) -> None:
        super().__init__()
        (expansion,) = spec.expansions
        hidden = in_channels * expansion
        self.stride = spec.stride
        self.top = top
        self.depthwise = ConvBN(in_channels, hidden, 3, spec.stride, groups=in_channels)
        self.pointwise = ConvBN(hidden, spec.width, groups=groups)
        self.residual = spec.stride == 1 and in_channels == spec.width
        # Here, and only here, the official code shuffles after the activation.
        self.shuffle = in_channels if groups > 1 else 1

    def forward(
        self, x: Tensor, tokens: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (N, C, H, W) and tokens (N, T, d) to new features and the same tokens."""
        if self.shuffle == 1 and fusible(x, *self.modules()):
            first, second = self.depthwise, self.pointwise
            y = second.bn(separable(x, first.conv, first.bn, self.top, second.conv, mask))
        else:
            y = self.depthwise(x, mask)
            y = F.relu6(y) if self.top == 6 else F.relu(y)
            if self.shuffle > 1:
                y = channel_shuffle(y, self.shuffle)
            y = self.pointwise(y)
        return (x + y if self.residual else y), tokens


class MobileBlock(nn.Module):
    """Stride-1 Mobile: pointwise e, dynamic ReLU, depthwise, dynamic ReLU, pointwise, residual.

    Args:
        in_channels: Channels of the input.
        spec: The block's numbers.
        token_dim: Width d of a token.
        groups: Groups of the pointwise convolutions and of the shuffles after them.
        drop_path: Probability of dropping the residual branch per sample.
    """

    def __init__(
        self, in_channels: int, spec: BlockSpec, token_dim: int, groups: int, drop_path: float
    ) -> None:
        super().__init__()
        (expansion,) = spec.expansions
        hidden = in_channels * expansion
        self.expand = ConvBN(in_channels, hidden, groups=groups, shuffle=groups)
        self.relu1 = DynamicReLU(hidden, token_dim)
        self.depthwise = ConvBN(hidden, hidden, 3, groups=hidden)
        self.relu2 = DynamicReLU(hidden, token_dim)
        self.project = ConvBN(hidden, spec.width, groups=groups, shuffle=groups)
        self.residual = in_channels == spec.width
        self.drop_path = DropPath(drop_path)
        self.grouped = groups > 1

    def forward(
        self, x: Tensor, tokens: Tensor, mixture: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """(N, C, H, W) to (N, C', H, W); ``mixture`` as :class:`DynamicReLU` takes it."""
        if not self.grouped and fusible(x, *self.modules()):
            act1, act2 = (relu.act(tokens, mixture) for relu in (self.relu1, self.relu2))
            y = separable(
                self.expand.conv(x), self.depthwise.conv, self.depthwise.bn, act2, self.project.conv,
                mask, before=(self.expand.bn, act1),
            )
            y = self.project.bn(y)
        else:
            y = self.relu1(self.expand(x), tokens, mixture)
            y = self.relu2(self.depthwise(y, mask), tokens, mixture)
            y = self.project(y)
        return x + self.drop_path(y) if self.residual else y


class DownsampleBlock(nn.Module):
    """Stride-2 Mobile: two depthwise-pointwise halves; the second has its own residual.

    Args:
        in_channels: Channels of the input.
        spec: The block's numbers.
        token_dim: Width d of a token.
        groups: Groups of the pointwise convolutions; above 1 the depthwise outputs are shuffled.
        drop_path: Probability of dropping the second half per sample.
    """

    def __init__(
        self, in_channels: int, spec: BlockSpec, token_dim: int, groups: int, drop_path: float
    ) -> None:
        super().__init__()
        e1, e2 = spec.expansions
        width = spec.width
        self.depthwise1 = _depthwise(in_channels, e1, 2, shuffled=groups > 1)
        self.relu1 = DynamicReLU(in_channels * e1, token_dim)
        self.project1 = ConvBN(in_channels * e1, width, groups=groups)
        self.depthwise2 = _depthwise(width, e2, 1, shuffled=groups > 1)
        self.relu2 = DynamicReLU(width * e2, token_dim)
        self.project2 = ConvBN(width * e2, width, groups=groups)
        self.drop_path = DropPath(drop_path)
        self.grouped = groups > 1

    def forward(
        self, x: Tensor, tokens: Tensor, mixture: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H/2), ceil(W/2)); ``mask`` is that of the input grid."""
        halves = (
            (self.depthwise1, self.relu1, self.project1, mask),
            (self.depthwise2, self.relu2, self.project2, stride2_mask(mask)),
        )
        fused = not self.grouped and fusible(x, *self.modules())
        results: list[Tensor] = []
        for depthwise, relu, project, padding in halves:
            if fused:
                act = relu.act(tokens, mixture)
                y = separable(x, depthwise.conv, depthwise.bn, act, project.conv, padding)
                x = project.bn(y)
            else:
                x = project(relu(depthwise(x, padding), tokens, mixture))
            results.append(x)
        return results[0] + self.drop_path(results[1])


class MobileFormerBlock(nn.Module):
    """Mobile→Former, Former, Mobile, Mobile←Former, in this order.

    Args:
        in_channels: Channels of the input.
        spec: The block's numbers, of kind ``'mobile'`` or ``'down'``.
        token_dim: Width d of a token.
        spatial_aware: Whether the dynamic ReLU mixes all tokens per position (True) or reads the
            first token (False).
        groups: Groups of the pointwise convolutions.
        drop_path: Probability of dropping each residual branch per sample.
    """

    def __init__(
        self,
        in_channels: int,
        spec: BlockSpec,
        token_dim: int,
        spatial_aware: bool,
        groups: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = spec.stride
        self.spatial_aware = spatial_aware
        mobile = DownsampleBlock if spec.kind == "down" else MobileBlock
        self.mobile_to_former = MobileToFormer(in_channels, token_dim, drop_path=drop_path)
        self.former = Former(token_dim, ffn_dim=2 * token_dim, drop_path=drop_path)
        self.mobile = mobile(in_channels, spec, token_dim, groups, drop_path)
        self.former_to_mobile = FormerToMobile(spec.width, token_dim, drop_path=drop_path)

    def forward(
        self, x: Tensor, tokens: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x: Features (N, C, H, W).
            tokens: (N, T, d).
            mask: Padding mask of ``x``, (N, H, W), True where padded.

        Returns:
            Features (N, C', H', W'), H' = ceil(H / stride), and tokens (N, T, d).
        """
        tokens, logits = self.mobile_to_former(x, tokens, mask)
        tokens = self.former(tokens)
        mixture = None
        if self.spatial_aware:
            height, width = x.shape[-2:]
            # Not -(-height // stride): ONNX rounds towards zero.
            round_up = self.stride - 1
            grid = ((height + round_up) // self.stride, (width + round_up) // self.stride)
            mixture = token_mixture(logits, grid, mask)
        x = self.mobile(x, tokens, mixture, mask)
        return self.former_to_mobile(x, tokens), tokens
