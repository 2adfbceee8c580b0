"""The head, folded for inference: the last prediction alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import DETRHead
from mmdet.models.layers import SinePositionalEncoding
from torch import Tensor, nn

from ..head import E2EMFHead
from ..head_blocks import E2EMFBlock, HeadScale, LiteSide, TransformerSide
from ..head_boxes import BoxesOfQueries
from ..head_reference import Place, Queries, embed_centres, told_heads
from ..padding import padding_mask
from .folded_tokens import FoldedFormer, FoldedUpdate, Products, asking_parts, linear_parts
from .parts import (
    Asking,
    Bridged,
    Cells,
    FoldedLinear,
    FoldedMobile,
    MobileWeights,
    Reading,
    bridge,
    position_of,
)
from .weights import lite_weights


class FoldedTransformer(nn.Module):
    """Feature side of an M-F+ block: queries, keys and values of the self-attention scaled and joined."""

    def __init__(self, side: TransformerSide, compiled: bool) -> None:
        super().__init__()
        attention: Any = side.self_attn.attn
        self.dims, self.num_heads = attention.embed_dim, attention.num_heads
        dims = self.dims
        weight, bias = attention.in_proj_weight.detach(), attention.in_proj_bias.detach()
        scale = weight.new_ones(2 * dims)
        scale[:dims] = (dims // self.num_heads) ** -0.5
        self.located = FoldedLinear(
            weight[: 2 * dims] * scale[:, None], bias[: 2 * dims] * scale, compiled=compiled
        )
        self.value = FoldedLinear(weight[2 * dims :], bias[2 * dims :], compiled=compiled)
        out = attention.out_proj
        self.out = FoldedLinear(out.weight.detach(), out.bias.detach(), compiled=compiled)
        self.norms = side.norms
        (fc1, _, _), fc2 = side.ffn.layers[0], side.ffn.layers[1]
        self.fc1 = FoldedLinear(fc1.weight.detach(), fc1.bias.detach(), "relu", compiled)
        self.fc2 = FoldedLinear(fc2.weight.detach(), fc2.bias.detach(), compiled=compiled)

    def forward(self, x: Tensor, cells: Cells) -> Tensor:
        """Map (N, H, W, C) to map."""
        height, width = x.shape[1:3]
        flat = x.flatten(1, 2)
        position = position_of(cells, height, width)
        parts = (*self.located(flat + position).split(self.dims, dim=-1), self.value(flat))
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts
        )
        mask = None if cells.mask is None else ~cells.mask.flatten(1)[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, mask, scale=1.0)
        flat = self.norms[0](flat + self.out(attended.transpose(1, 2).flatten(2)))
        flat = self.norms[1](flat + self.fc2(self.fc1(flat)))
        return flat.unflatten(1, (height, width))


class FoldedHeadBlock(nn.Module):
    """A block of the head after its Mobile→Former; what is asked next is the caller's."""

    def __init__(self, block: E2EMFBlock, compiled: bool) -> None:
        super().__init__()
        self.compiled = compiled
        self.update = FoldedUpdate(block.mobile_to_former)
        self.former = FoldedFormer(block.former)
        self.transformer: FoldedTransformer | None = None
        self.lite: FoldedMobile | None = None
        self.adapt_position = block.adapt_position
        reading = block.former_to_mobile
        if reading is None:
            return
        self.num_heads = reading.num_heads
        self.key = Products({"key": linear_parts(reading.key, reading.scale)})
        self.value = Products({"value": linear_parts(reading.value)})
        if isinstance(block.mobile, TransformerSide):
            self.transformer = FoldedTransformer(block.mobile, compiled)
        else:
            weights = lite_weights(cast(LiteSide, block.mobile), "relu")
            self.lite = FoldedMobile(weights, self.num_heads, compiled)

    def tokens(
        self,
        content: Tensor,
        position: Tensor,
        asked: Bridged,
        gate: Tensor,
        rivals: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        """New content (N, Q, C) from what was gathered; ``rivals`` as in E2EMFBlock."""
        content = self.update(content, asked.attended, gate)
        return self.former(content, position, None if rivals is None else rivals(content))

    def features(
        self, x: Tensor, cells: Cells, content: Tensor, position: Tensor, asking: Asking | None
    ) -> Bridged:
        """New map (N, H, W, C), and what is asked of it; the same map without a feature side."""
        if self.transformer is None and self.lite is None:
            return Bridged(x, x, x)
        key = self.key(content + position)["key"]
        reading = Reading(key, self.value(content)["value"])
        if self.lite is not None:
            grid = (x.shape[1], x.shape[2])
            return self.lite(x, grid, mask=cells.mask, cells=cells, reading=reading, asking=asking)
        if self.transformer is not None:
            x = self.transformer(x, cells)
        return bridge(x, self.num_heads, cells, reading, asking, self.compiled)


class FoldedHeadScale(nn.Module):
    """One scale: projection, up-convolution from the coarser scale, blocks."""

    def __init__(self, scale: HeadScale, num_heads: int, coarsest: bool, compiled: bool) -> None:
        super().__init__()
        self.compiled = compiled
        self.num_heads = num_heads
        project: Any = scale.project
        self.project = FoldedLinear(
            project.weight.detach().flatten(1), project.bias.detach(), compiled=compiled
        )
        self.enlarge: FoldedMobile | None = None
        self.convolve: FoldedMobile | None = None
        if not coarsest:
            depthwise, pointwise = scale.up_depthwise, scale.up_pointwise
            weights = MobileWeights(
                depthwise.weight.detach().transpose(0, 1), cast(Tensor, depthwise.bias).detach()[None],
                pointwise.weight.detach().flatten(1), cast(Tensor, pointwise.bias).detach(), "none",
                source="resize", residual="given",
            )
            self.enlarge = FoldedMobile(weights, num_heads, compiled)
        self.blocks = nn.ModuleList(
            FoldedHeadBlock(cast(E2EMFBlock, block), compiled) for block in scale.blocks
        )

    def enter(
        self, feature: Tensor, coarser: Tensor | None, coarser_mask: Tensor | None, cells: Cells,
        asking: Asking,
    ) -> Bridged:
        """Backbone's feature (N, H, W, C') and the coarser map to a map, and what is asked of it."""
        x = self.project(feature)
        if coarser is None or self.enlarge is None:
            done = bridge(x, self.num_heads, cells, None, asking, self.compiled)
            return Bridged(x, done.attended, done.mean)
        grid = (x.shape[1], x.shape[2])
        if coarser_mask is not None:
            coarser = resize_valid(coarser, coarser_mask, grid)
        return self.enlarge(
            coarser, grid, mask=cells.mask, residual=x, cells=cells, asking=asking
        )


def resize_valid(x: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear resize of a map (N, H, W, C) that reads valid cells only."""
    valid = (~mask).unsqueeze(1).to(x.dtype)
    x = x.permute(0, 3, 1, 2) * valid
    weight = F.interpolate(valid, grid, mode="bilinear", align_corners=False).clamp(min=1e-6)
    up = F.interpolate(x, grid, mode="bilinear", align_corners=False) / weight
    return up.permute(0, 2, 3, 1).contiguous()


class FoldedHead(BoxesOfQueries, nn.Module):
    """E2EMFHead for inference.

    Args:
        head: The head, which stays as it is.
        compiled: Whether the compiled kernels are used.
    """

    # mmdet's post-processing needs nothing else of DETRHead.
    predict_by_feat = DETRHead.predict_by_feat
    _predict_by_feat_single = DETRHead._predict_by_feat_single

    query_table: Tensor
    grid: Tensor

    def __init__(self, head: E2EMFHead, compiled: bool) -> None:
        super().__init__()
        self.num_classes, self.num_queries = head.num_classes, head.num_queries
        self.num_heads, self.scale_strides = head.num_heads, head.scale_strides
        self.look, self.deltas, self.size_aware = head.look, head.deltas, head.size_aware
        self.rivals, self.reader = head.rivals, head.reader
        self.test_cfg, self.loss_cls = head.test_cfg, head.loss_cls
        self.reference_boxes = head.reference_boxes
        self.encoding: SinePositionalEncoding = head.positional_encoding
        self.scales = nn.ModuleList(
            FoldedHeadScale(cast(HeadScale, scale), head.num_heads, index == 0, compiled)
            for index, scale in enumerate(head.scales)
        )
        #: Mobile→Former of every block and the closing one: what is asked, and how it is taken in.
        layers = [
            cast(E2EMFBlock, block).mobile_to_former
            for scale in head.scales
            for block in cast(HeadScale, scale).blocks
        ]
        self.closing: FoldedUpdate | None = None
        if head.closing is not None:
            layers.append(head.closing)
            self.closing = FoldedUpdate(head.closing)
        self.questions = nn.ModuleList(
            Products(asking_parts(layer)) for layer in layers
        )
        self.register_buffer("query_table", head.query_embedding.weight.detach().clone())
        self.register_buffer("grid", head.grid.clone() if head.reference_boxes else None)
        self.fc_cls, self.reg_ffn, self.fc_reg = head.fc_cls, head.reg_ffn, head.fc_reg
        self.activate = head.activate

    def forward(self, feats: Sequence[Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`E2EMFHead.forward`, with the last prediction alone: K is 1."""
        maps = [feat.permute(0, 2, 3, 1) for feat in reversed(feats)]
        # In a trace len() would be a constant.
        batch = maps[0].shape[0]
        position = self.query_table.expand(batch, -1, -1)
        queries = Queries(
            torch.zeros_like(position), position,
            self.grid.expand(batch, -1, -1) if self.reference_boxes else None,
        )
        questions = iter(self.questions)
        x: Tensor | None = None
        coarser_mask: Tensor | None = None
        read: Tensor | None = None
        for module, stride, feature in zip(self.scales, self.scale_strides, maps):
            scale = cast(FoldedHeadScale, module)
            scale_mask = None if mask is None else mask[:, ::stride, ::stride].contiguous()
            cells = self._cells(scale_mask, feature)
            place = None
            if self.reference_boxes:
                place = Place.of_map(scale_mask, feature.permute(0, 3, 1, 2))
            located, gate, asking = self._ask(next(questions), queries, place)
            done = scale.enter(feature, x, coarser_mask, cells, asking)
            count = len(scale.blocks)
            for index, part in enumerate(scale.blocks):
                block = cast(FoldedHeadBlock, part)
                content = block.tokens(
                    queries.content, located, done, gate,
                    self.rivals_of(queries, place, read, scale_mask),
                )
                queries.content = content
                if block.adapt_position is not None:
                    queries.position = queries.position + block.adapt_position(content)
                finest = module is self.scales[-1]
                if finest and self.reader is not None and place is not None:
                    # The boxes, which tell where to ask next, wait for the map.
                    done = block.features(done.x, cells, content, located, None)
                    read = self.reader(done.x.permute(0, 3, 1, 2), scale_mask, place)
                if queries.reference is not None:
                    # The next block needs them; without, only the last are predicted.
                    self.refine_boxes(queries, place, read, scale_mask)
                more = index < count - 1 or (finest and self.closing is not None)
                upcoming = self._ask(next(questions), queries, place) if more else None
                next_asking = None if upcoming is None else upcoming[2]
                if read is None:
                    done = block.features(done.x, cells, content, located, next_asking)
                elif next_asking is not None:
                    asked = bridge(done.x, self.num_heads, cells, None, next_asking, block.compiled)
                    done = Bridged(done.x, asked.attended, asked.mean)
                if upcoming is not None:
                    located, gate, _ = upcoming
            x, coarser_mask = done.x, scale_mask
        if self.closing is not None:
            queries.content = self.closing(queries.content, done.attended, gate)
            tell = self.rivals_of(queries, place, read, scale_mask)
            if tell is not None:
                last = cast(FoldedHeadBlock, cast(FoldedHeadScale, self.scales[-1]).blocks[-1])
                queries.content = last.former(queries.content, located, tell(queries.content))
            if queries.reference is not None:
                self.refine_boxes(queries, place, read, scale_mask)
        boxes = queries.reference
        if boxes is None:
            boxes = self.boxes_of(queries.content, None)
        return self.fc_cls(queries.content)[None], boxes.sigmoid()[None]

    def _ask(
        self, question: nn.Module, queries: Queries, place: Place | None
    ) -> tuple[Tensor, Tensor, Asking]:
        """The queries' position on a map, the gate of what they gather, and what they ask for."""
        position, looks, places, told = queries.position, None, None, 0
        if place is not None and queries.reference is not None:
            boxes = queries.reference.sigmoid()
            position = position + embed_centres(boxes, self.encoding, place)
            looks, keys = place.gaussians(boxes, self.num_heads, self.look)
            looks, places = looks.contiguous(), keys[:, 0].transpose(1, 2).contiguous()
            told = told_heads(self.look, self.num_heads)
        products = question(queries.content + position)
        return position, products["gate"], Asking(products["query"], looks, places, told)

    def _cells(self, mask: Tensor | None, feature: Tensor) -> Cells:
        """Sine embeddings of rows and columns: as mmdet's, in the valid part of each image."""
        height, width = feature.shape[1:3]
        if mask is None:
            return Cells(None, self._sine(height, feature), self._sine(width, feature))
        valid = ~mask
        rows = self._sine(height, feature, valid[:, :, 0].sum(1))
        return Cells(mask, rows, self._sine(width, feature, valid[:, 0].sum(1)))

    def _sine(self, count: int, like: Tensor, extent: Tensor | None = None) -> Tensor:
        """(N or 1, count, C / 2) for ``count`` cells of which ``extent`` (N,), or all, are valid."""
        encoding = self.encoding
        place = torch.arange(1, count + 1, device=like.device, dtype=like.dtype)
        # All of them by the last place: a tensor of the number would be a constant in a trace.
        last = place[-1:] if extent is None else extent.to(like.dtype)
        place = place / (last[:, None] + encoding.eps) * encoding.scale
        index = torch.arange(encoding.num_feats, device=like.device, dtype=like.dtype)
        wave = encoding.temperature ** (2 * (index // 2) / encoding.num_feats)
        angle = place[:, :, None] / wave
        parts = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1)
        return parts.flatten(-2)

    def predict(
        self, feats: Sequence[Tensor], batch_data_samples: Sequence[Any], rescale: bool = True
    ) -> list[Any]:
        """As :meth:`E2EMFHead.predict`."""
        outs = self(feats, padding_mask(batch_data_samples, feats[0]))
        metas = [sample.metainfo for sample in batch_data_samples]
        results: list[Any] = self.predict_by_feat(*outs, batch_img_metas=metas, rescale=rescale)
        return results
