"""What the head of E2E-MF is built of (arXiv 2108.05895v3; the layers are reconstructed)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch.nn.functional as F
from mmdet.models.layers import DetrTransformerEncoderLayer
from torch import Tensor, nn

from .archs import BlockSpec
from .layers import (
    Dropout,
    Former,
    FormerToMobile,
    Linear,
    LiteBottleneck,
    Look,
    MobileToFormer,
    linear,
    use_onednn,
    zero_padding,
)


class TransformerSide(DetrTransformerEncoderLayer):
    """Feature side of an M-F+ block: a post-norm transformer encoder layer over the map.

    Args:
        embed_dims: Channels C.
        num_heads: Heads of the self-attention.
        ffn_dims: Hidden width of the FFN (ReLU).
        dropout: Dropout of both branches.
    """

    def __init__(self, embed_dims: int, num_heads: int, ffn_dims: int, dropout: float) -> None:
        super().__init__(
            self_attn_cfg=dict(embed_dims=embed_dims, num_heads=num_heads, dropout=dropout),
            ffn_cfg=dict(
                embed_dims=embed_dims, feedforward_channels=ffn_dims, num_fcs=2, ffn_drop=dropout
            ),
        )
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, Dropout(child.p))
        use_onednn(self)
        self.weight_drop = Dropout(dropout)
        # A ReLU and a dropout give the same in either order; with the ReLU last, and in place, the
        # backward pass needs one map instead of two.
        hidden = self.ffn.layers[0]
        hidden[1], hidden[2] = hidden[2], hidden[1]

    def forward(self, x: Tensor, mask: Tensor | None, pos: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W); ``pos`` (N or 1, C, H, W) goes to queries and keys."""
        sequence = x.flatten(2).transpose(1, 2)
        attended = self._attend(sequence, sequence + pos.flatten(2).transpose(1, 2), mask)
        sequence = self.norms[0](sequence + self.self_attn.dropout_layer(attended))
        sequence = self.norms[1](self.ffn(sequence))
        out: Tensor = sequence.transpose(1, 2).unflatten(2, x.shape[-2:])
        return out

    def _attend(self, value: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention with the weights of mmdet's layer, (N, L, C) to (N, L, C).

        torch's MultiheadAttention would also average the heads' weights, which nothing reads.
        """
        layer = self.self_attn.attn
        channels, heads = value.shape[-1], layer.num_heads
        weight, bias = layer.in_proj_weight, layer.in_proj_bias
        read = linear(key, weight[: 2 * channels], bias[: 2 * channels])
        values = linear(value, weight[2 * channels :], bias[2 * channels :])
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (*read.chunk(2, dim=-1), values)
        )
        valid = None if mask is None else ~mask.flatten(1)[:, None, None]
        if self.training and self.weight_drop.p > 0:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            if valid is not None:
                scores = scores.masked_fill(~valid, float("-inf"))
            attended = self.weight_drop(scores.softmax(dim=-1)) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=valid)
        result: Tensor = layer.out_proj(attended.transpose(1, 2).flatten(2))
        return result


class LiteSide(LiteBottleneck):
    """Feature side of an M-F- block: depthwise 3x3 that expands, ReLU, pointwise, residual.

    Args:
        embed_dims: Channels C.
        expansion: Hidden channels as a multiple of C.
    """

    def __init__(self, embed_dims: int, expansion: int) -> None:
        super().__init__(
            embed_dims, BlockSpec("lite", (expansion,), embed_dims, 1), top=math.inf
        )

    def forward(self, x: Tensor, mask: Tensor | None, pos: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) to (N, C, H, W); convolutions know where they are, so ``pos`` is unused."""
        return super().forward(x, x, mask)[0]


class E2EMFBlock(nn.Module):
    """Mobile→Former, Former, feature side, Mobile←Former, then the queries' position adapts.

    Args:
        embed_dims: Width of features and queries.
        num_heads: Heads of the bridges and the Former.
        ffn_dims: Hidden width of the queries' FFN.
        dropout: Dropout of the residual branches.
        side: The feature side; None for a block whose features nothing reads.
        adaptive: Whether the position is adapted, ``q^p += g(q^f)``, g a two-layer ReLU MLP.
        told: As in :class:`MobileToFormer`.
        former_told: The same of :class:`Former`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        ffn_dims: int,
        dropout: float,
        side: nn.Module | None,
        adaptive: bool,
        told: int = 0,
        former_told: int = 0,
    ) -> None:
        super().__init__()
        self.mobile_to_former = MobileToFormer(
            embed_dims, embed_dims, num_heads, dropout, with_logits=False, told=told
        )
        self.former = Former(embed_dims, num_heads, ffn_dims, dropout, told=former_told)
        self.mobile = side
        self.former_to_mobile = (
            None if side is None else FormerToMobile(embed_dims, embed_dims, num_heads, dropout)
        )
        self.adapt_position = (
            nn.Sequential(
                Linear(embed_dims, embed_dims), nn.ReLU(), Linear(embed_dims, embed_dims)
            )
            if adaptive
            else None
        )

    def forward(
        self,
        x: Tensor,
        content: Tensor,
        position: Tensor,
        mask: Tensor | None,
        pos: Tensor,
        look: Look | None = None,
        apart: Tensor | None = None,
        readable: int | None = None,
        rivals: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x: Features (N, C, H, W).
            content: q^f, (N, Q, C).
            position: q^p, (N, Q, C).
            mask: Padding mask (N, H, W), True where padded.
            pos: Sine embedding of the features (N or 1, C, H, W).
            look: As in :class:`MobileToFormer`.
            apart: As in :class:`Former`.
            readable: The features read the last so many queries only; None for all.
            rivals: Gives the ``shares`` of :class:`Former` from the content that it reads.

        Returns:
            New features and content.
        """
        content, _ = self.mobile_to_former(x, content, mask, pos, position, look)
        shares = None if rivals is None else rivals(content)
        content = self.former(content, position, apart, shares)
        if self.mobile is not None and self.former_to_mobile is not None:
            x = self.mobile(x, mask, pos)
            first = 0 if readable is None else content.shape[1] - readable
            x = self.former_to_mobile(x, content[:, first:], pos, position[:, first:])
        return x, content

    def adapt(self, own_position: Tensor, content: Tensor) -> Tensor:
        """The queries' position after the block: ``q^p + g(q^f)``, all (N, Q, C)."""
        if self.adapt_position is None:
            return own_position
        return own_position + self.adapt_position(content)


def reset_parameters(module: nn.Module) -> None:
    """Xavier-uniform matrices as in DETR; depthwise kernels keep their input's variance."""
    for parameter in module.parameters():
        if parameter.dim() == 4 and parameter.shape[1] == 1:
            # Xavier counts a depthwise kernel's outputs as if all were connected.
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


class HeadScale(nn.Module):
    """One scale of the head: 1x1 projection, up-convolution from the coarser scale, blocks.

    Args:
        in_channels: Channels of the backbone's feature.
        embed_dims: Width of the head.
        blocks: The scale's blocks.
        coarsest: Whether there is no coarser scale to come from.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, blocks: Sequence[E2EMFBlock], coarsest: bool
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.project = nn.Conv2d(in_channels, embed_dims, 1)
        if not coarsest:
            self.up_depthwise = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
            self.up_pointwise = nn.Conv2d(embed_dims, embed_dims, 1)
        self.blocks = nn.ModuleList(blocks)

    def enter(
        self,
        feature: Tensor,
        mask: Tensor | None,
        coarser: Tensor | None,
        coarser_mask: Tensor | None,
    ) -> Tensor:
        """Bring the backbone's feature in and add the coarser map.

        Args:
            feature: The backbone's feature (N, C', H, W).
            mask: Its padding mask (N, H, W), True where padded.
            coarser: The coarser scale's map (N, C, h, w), or None at the coarsest.
            coarser_mask: Its padding mask (N, h, w).

        Returns:
            (N, C, H, W).
        """
        x: Tensor = self.project(feature)
        if coarser is None:
            return x
        up = _resize(coarser, (x.shape[-2], x.shape[-1]), coarser_mask)
        up = self.up_depthwise(zero_padding(up, mask))
        return x + self.up_pointwise(up)


class Level(NamedTuple):
    """A scale and what it starts from; masks are (N, H, W), True where padded.

    Attributes:
        scale: The scale.
        feature: The backbone's feature (N, C', H, W).
        mask: Its padding mask.
        coarser_mask: That of the coarser scale, None at the coarsest.
        pos: Sine embedding of the feature (N or 1, C, H, W).
    """

    scale: HeadScale
    feature: Tensor
    mask: Tensor | None
    coarser_mask: Tensor | None
    pos: Tensor


def levels_of(
    scales: Iterable[nn.Module],
    strides: Sequence[int],
    encoding: Callable[[Tensor | None, Tensor], Tensor],
    feats: Sequence[Tensor],
    mask: Tensor | None,
) -> list[Level]:
    """The scales, coarse to fine, with what they read.

    Args:
        scales: The head's scales, coarse to fine.
        strides: Theirs.
        encoding: Positional encoding of a padding mask and a feature.
        feats: The backbone's features, fine to coarse, each (N, C_i, H_i, W_i).
        mask: Padding mask of the images (N, H, W), True where padded.

    Raises:
        ValueError: If number or channels of the features are not those of the scales.
    """
    own = [cast(HeadScale, scale) for scale in scales]
    expected = [scale.in_channels for scale in reversed(own)]
    found = [feat.shape[1] for feat in feats]
    if found != expected:
        raise ValueError(
            f"E2EMFHead got features of {found} channels (fine to coarse) but was built for "
            f"{expected}: give it the backbone's arch and the matching out_indices"
        )
    levels: list[Level] = []
    for scale, stride, feat in zip(own, strides, reversed(feats)):
        scale_mask = None if mask is None else mask[:, ::stride, ::stride]
        # mmdet builds the encoding in float32; the sum keeps the features' precision.
        pos = encoding(scale_mask, feat[:1]).to(feat.dtype)
        levels.append(Level(scale, feat, scale_mask, levels[-1].mask if levels else None, pos))
    return levels


def _resize(x: Tensor, size: tuple[int, int], mask: Tensor | None) -> Tensor:
    """Bilinear resize that reads valid cells only, as if the padding were not there."""
    if mask is None:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    valid = (~mask).unsqueeze(1).to(x.dtype)
    weight = F.interpolate(valid, size, mode="bilinear", align_corners=False)
    return F.interpolate(x * valid, size, mode="bilinear", align_corners=False) / weight.clamp(
        min=1e-6
    )
