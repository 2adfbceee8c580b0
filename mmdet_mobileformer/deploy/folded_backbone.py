"""The backbone, folded for inference."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ..backbone import MobileFormer, check_input
from ..layers import LiteBottleneck, MobileFormerBlock, stride2_mask, zero_padding
from ..layers.blocks import DownsampleBlock
from .folded_tokens import FoldedFormer, FoldedUpdate, Products, asking_parts, linear_parts
from .parts import Asking, Bridged, Cells, FoldedMobile, Reading, mixture_of
from .weights import (
    downsample_weights,
    fold_batchnorm,
    fold_slopes,
    lite_weights,
    mobile_weights,
)

#: Heads of the backbone's bridges.
HEADS = 2


def halved(mask: Tensor | None) -> Tensor | None:
    """A padding mask (N, H, W) after a convolution of stride 2."""
    mask = stride2_mask(mask)
    return None if mask is None else mask.contiguous()


class FoldedBlock(nn.Module):
    """A Mobile-Former block, and what the next block's tokens ask of its result.

    Args:
        block: The block.
        following: The next block, or None.
        compiled: Whether the compiled kernels are used.
    """

    def __init__(
        self, block: MobileFormerBlock, following: MobileFormerBlock | None, compiled: bool
    ) -> None:
        super().__init__()
        self.stride = block.stride
        self.spatial_aware = block.spatial_aware
        self.compiled = compiled
        self.update = FoldedUpdate(block.mobile_to_former)
        self.former = FoldedFormer(block.former)
        places: tuple[Tensor | None, Tensor | None]
        self.entry: FoldedMobile | None = None
        if isinstance(block.mobile, DownsampleBlock):
            entry, main, places = downsample_weights(block.mobile)
            self.entry = FoldedMobile(entry, HEADS, compiled)
        else:
            main, places = mobile_weights(block.mobile)
        self.main = FoldedMobile(main, HEADS, compiled)
        self.slopes1 = fold_slopes(block.mobile.relu1, places[0], compiled)
        self.slopes2 = fold_slopes(block.mobile.relu2, places[1], compiled)
        reading = block.former_to_mobile
        parts = {
            "key": linear_parts(reading.key, reading.scale),
            "value": linear_parts(reading.value),
            "squeeze1": linear_parts(block.mobile.relu1.squeeze),
            "squeeze2": linear_parts(block.mobile.relu2.squeeze),
        }
        if following is not None:
            parts.update(asking_parts(following.mobile_to_former))
        self.products = Products(parts)

    def forward(
        self, x: Tensor, tokens: Tensor, asked: Bridged, gate: Tensor, mask: Tensor | None, mean: bool
    ) -> tuple[Bridged, Tensor, Tensor | None]:
        """Run the block.

        Args:
            x: Map (N, H, W, C).
            tokens: (N, T, d).
            asked: What its Mobile→Former gathered from ``x``.
            gate: The gate of that.
            mask: Padding of ``x``, (N, H, W).
            mean: Whether the next block wants mean scores.

        Returns:
            The new map with what the next block asks for, tokens, and the next block's gate.
        """
        tokens = self.former(self.update(tokens, asked.attended, gate))
        products = self.products(tokens)
        grid = (x.shape[1], x.shape[2])
        mixture = None
        hidden = products["squeeze1"], products["squeeze2"]
        if self.spatial_aware:
            mixture = mixture_of(asked.mean, grid, self.stride, mask, self.compiled)
        else:
            hidden = hidden[0][:, :1], hidden[1][:, :1]
        slopes = self.slopes1(hidden[0]), self.slopes2(hidden[1])
        query = products.get("query")
        asking = None if query is None else Asking(query, mean=mean)
        residual = x
        if self.entry is not None:
            x = self.entry(x, grid, (None, slopes[0]), mixture, mask).x
            grid, mask = (x.shape[1], x.shape[2]), halved(mask)
        done = self.main(
            x, grid, slopes, mixture, mask, residual if self.main.residual == "given" else None,
            Cells(mask), Reading(products["key"], products["value"]), asking,
        )
        return done, tokens, products.get("gate")


class FoldedMobileFormer(nn.Module):
    """MobileFormer for inference: the same features from fewer passes over them.

    Args:
        model: The backbone, which stays as it is.
        compiled: Whether the compiled kernels are used.
    """

    takes_mask = True
    tokens: Tensor
    query: Tensor
    gate: Tensor

    def __init__(self, model: MobileFormer, compiled: bool) -> None:
        super().__init__()
        self.out_indices, self.out_channels = model.out_indices, model.out_channels
        self.out_strides, self.stage_ends = model.out_strides, model.stage_ends
        lite, *blocks = model.blocks
        weights = lite_weights(cast(LiteBottleneck, lite), "relu6")
        weights.source = "stem"
        weights.first, weights.first_bias = fold_batchnorm(model.stem)
        self.start = FoldedMobile(weights, HEADS, compiled)
        self.blocks = nn.ModuleList()
        self.spatial_aware = bool(blocks) and cast(MobileFormerBlock, blocks[0]).spatial_aware
        for block, following in zip(blocks, [*blocks[1:], None]):
            self.blocks.append(
                FoldedBlock(
                    cast(MobileFormerBlock, block), cast("MobileFormerBlock | None", following), compiled
                )
            )
        # The first block's tokens are learned, so what they ask for never changes.
        self.register_buffer("tokens", model.tokens.detach().clone())
        if blocks:
            asking = cast(MobileFormerBlock, blocks[0]).mobile_to_former
            first = Products(asking_parts(asking))(self.tokens[None])
            self.register_buffer("query", first["query"])
            self.register_buffer("gate", first["gate"])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """As :meth:`MobileFormer.forward`; the maps are channels last in memory."""
        check_input(x, mask)
        x = zero_padding(x, mask)
        # In a trace len() would be a constant, and ONNX rounds negative quotients towards zero.
        batch = x.shape[0]
        tokens = self.tokens.expand(batch, -1, -1)
        mask = halved(mask)
        grid = ((x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
        inner_mask = mask
        if self.start.stride == 2:
            mask = halved(mask)
        asking, gate = None, tokens
        if self.blocks:
            asking = Asking(self.query.expand(batch, -1, -1), mean=self.spatial_aware)
            gate = self.gate
        done = self.start(x, grid, mask=inner_mask, cells=Cells(mask), asking=asking)
        outs = [done.x]
        for index, module in enumerate(self.blocks):
            block = cast(FoldedBlock, module)
            wanted = self.spatial_aware and index + 1 < len(self.blocks)
            done, tokens, following = block(done.x, tokens, done, gate, mask, wanted)
            gate = gate if following is None else following
            mask = halved(mask) if block.stride == 2 else mask
            outs.append(done.x)
        ends = [self.stage_ends[index] - 1 for index in self.out_indices]
        return tuple(outs[end].permute(0, 3, 1, 2) for end in ends)
