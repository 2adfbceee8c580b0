"""The head of E2E-MF: object queries refined from 1/32 through 1/16 to 1/8 (arXiv 2108.05895v3).

The paper gives the idea; the layers are reconstructed. What is known and what is ours stands in the
README under "Differs from the paper / reconstructed".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.layers import SinePositionalEncoding
from mmdet.registry import MODELS
from mmengine.model import bias_init_with_prob
from torch import Tensor, nn

from .head_arguments import check_arguments, check_queries, input_channels, split_background
from .head_blocks import (
    E2EMFBlock,
    HeadScale,
    Level,
    LiteSide,
    TransformerSide,
    levels_of,
    reset_parameters,
)
from .head_boxes import BoxesOfQueries, at_least_float32, full_precision
from .head_losses import losses_of_blocks
from .head_read import BoxReader
from .head_reference import LAYOUTS, Place, Queries, embed_centres, grid_boxes, told_heads
from .head_rivals import told_former_heads
from .layers import Look, MobileToFormer
from .matching import is_hungarian
from .padding import padding_mask


@MODELS.register_module()
class E2EMFHead(BoxesOfQueries, DETRHead):
    """Object queries refined scale by scale, coarse to fine; losses and assignment are DETR's.

    Args:
        num_classes: Classes without the background.
        arch: Arch of the backbone, which gives the input channels.
        in_channels: Input channels, fine to coarse, of a backbone that is none of ours; instead of
            ``arch``.
        scales: Strides of the scales, coarse to fine. The head takes one feature for each, in the
            backbone's order (fine to coarse).
        num_blocks: Blocks per scale, in the order of ``scales``.
        sides: Feature side per scale: ``'transformer'`` (M-F+) or ``'lite'`` (M-F-).
        num_queries: Object queries.
        embed_dims: Width of features and queries.
        num_heads: Heads of the bridges, the Former and the transformer side.
        query_ffn_dims: Hidden width of the queries' FFN.
        side_ffn_dims: Hidden width of the transformer side's FFN.
        expansion: Hidden channels of the lite side as a multiple of ``embed_dims``.
        position: ``'adaptive'``: the queries' position changes after every block; ``'shared'``: all
            blocks use the learned one.
        closing: Whether a closing Mobile→Former reads the last map and the last prediction is made
            after it. Without it, what nothing would read is not built.
        reference_boxes: Ours, not the paper's, and off by default: every query starts with a box,
            which every block refines; see :mod:`mmdet_mobileformer.head_reference`. True or
            ``'grid'``: on one grid; ``'pyramid'``: on a grid for each of three sizes.
        look: Where the heads look at a reference box first: ``'edges'`` (the middle, the edges,
            around it), ``'middle'`` or ``'fixed'`` (the middle, whatever is there).
        deltas: How a block changes a reference box: ``'logit'`` (by adding to its logits) or
            ``'box'`` (relative to its own size).
        size_aware: Whether a block that changes a reference box knows its size: the embedding of its
            sides is added to what the change is predicted from.
        rivals: Whether some heads of the queries' self-attention read better-scored queries whose boxes
            overlap; see :mod:`mmdet_mobileformer.head_rivals`. After the closing layer the last
            block's Former shares among the queries once more. Needs ``reference_boxes``.
        read_boxes: Whether boxes are read from the finest map, too; see
            :mod:`mmdet_mobileformer.head_read`. Needs ``reference_boxes``.
        query_init: Start of the learned queries: ``'normal'`` (DETR's, the default), ``'zeros'``
            (the default with reference boxes), or ``'grid'`` (ours, without reference boxes): the
            sine embedding of points on a grid, so that every query looks elsewhere from the start.
        dropout: Dropout of every residual branch in the head.
        loss_cls, loss_bbox, loss_iou: Losses; by default DETR's. ``bg_cls_weight`` of a softmax
            ``loss_cls`` is the weight of no-object.
        train_cfg: ``dict(assigner=...)``; None takes DETR's Hungarian assigner.
        test_cfg: ``dict(max_per_img=...)``.
        sync_cls_avg_factor, num_reg_fcs, init_cfg: As in mmdet's DETRHead.

    Raises:
        ValueError: If the arguments do not fit each other.
    """

    def __init__(
        self,
        num_classes: int,
        arch: str | None = None,
        in_channels: Sequence[int] | None = None,
        scales: Sequence[int] = (32, 16, 8),
        num_blocks: Sequence[int] = (5, 2, 2),
        sides: Sequence[str] = ("transformer", "lite", "lite"),
        num_queries: int = 100,
        embed_dims: int = 256,
        num_heads: int = 8,
        query_ffn_dims: int = 1024,
        side_ffn_dims: int = 2048,
        expansion: int = 4,
        position: str = "adaptive",
        closing: bool = True,
        reference_boxes: bool | str = False,
        look: str = "edges",
        deltas: str = "logit",
        size_aware: bool = False,
        rivals: bool = False,
        read_boxes: bool = False,
        query_init: str | None = None,
        dropout: float = 0.1,
        loss_cls: dict[str, Any] | None = None,
        loss_bbox: dict[str, Any] | None = None,
        loss_iou: dict[str, Any] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        sync_cls_avg_factor: bool = False,
        num_reg_fcs: int = 2,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        loss_cls, background = split_background(loss_cls, num_classes)
        optional = {"loss_bbox": loss_bbox, "loss_iou": loss_iou, "train_cfg": train_cfg}
        # DETRHead changes the dicts it is given, its defaults included: give copies.
        super().__init__(
            num_classes=num_classes,
            embed_dims=embed_dims,
            num_reg_fcs=num_reg_fcs,
            sync_cls_avg_factor=sync_cls_avg_factor,
            loss_cls=loss_cls,
            test_cfg=dict(test_cfg or {}),
            init_cfg=init_cfg,
            **{key: copy.deepcopy(value) for key, value in optional.items() if value is not None},
        )
        # After super().__init__, which resets it; the loss is normalised by it.
        self.bg_cls_weight = background
        self.scale_strides = tuple(scales)
        self.num_queries = num_queries
        self.num_heads = num_heads
        channels = input_channels(arch, in_channels, self.scale_strides)
        check_arguments(self.scale_strides, num_blocks, sides, position, embed_dims, num_heads)
        query_init = check_queries(
            reference_boxes, query_init, look, deltas, size_aware, rivals, read_boxes, num_heads
        )
        self.look = look
        self.deltas = deltas
        self.size_aware = size_aware
        self.rivals = rivals
        candidates = num_queries * (num_classes if self.loss_cls.use_sigmoid else 1)
        self.test_cfg["max_per_img"] = min(self.test_cfg.get("max_per_img", 100), candidates)

        adaptive = position == "adaptive"
        told = told_heads(look, num_heads) if reference_boxes else 0
        former_told = told_former_heads(num_heads) if rivals else 0

        def make_side(kind: str) -> nn.Module:
            if kind == "transformer":
                return TransformerSide(embed_dims, num_heads, side_ffn_dims, dropout)
            return LiteSide(embed_dims, expansion)

        def make_block(kind: str, last: bool) -> E2EMFBlock:
            dead = last and not closing
            side = None if dead else make_side(kind)
            return E2EMFBlock(
                embed_dims, num_heads, query_ffn_dims, dropout, side, adaptive and not dead, told,
                former_told,
            )

        self.scales = nn.ModuleList()
        last_scale = len(self.scale_strides) - 1
        for index, (count, kind) in enumerate(zip(num_blocks, sides)):
            blocks = [
                make_block(kind, last=index == last_scale and k == count - 1) for k in range(count)
            ]
            self.scales.append(HeadScale(channels[index], embed_dims, blocks, coarsest=index == 0))
        self.closing = (
            MobileToFormer(
                embed_dims, embed_dims, num_heads, dropout, with_logits=False, told=told
            )
            if closing
            else None
        )
        self.reader = BoxReader(embed_dims) if read_boxes else None
        self.query_embedding = nn.Embedding(num_queries, embed_dims)
        self.positional_encoding = SinePositionalEncoding(embed_dims // 2, normalize=True)
        reset_parameters(self.scales)
        if self.closing is not None:
            reset_parameters(self.closing)
        if query_init == "zeros":
            nn.init.zeros_(self.query_embedding.weight)
        elif query_init == "grid":
            centres = embed_centres(grid_boxes(num_queries)[None].sigmoid(), self.positional_encoding)
            self.query_embedding.weight.data.copy_(centres[0])
        self.reference_boxes = bool(reference_boxes)
        self.grid: Tensor
        if reference_boxes:
            layout = "grid" if reference_boxes is True else reference_boxes
            self.register_buffer("grid", LAYOUTS[layout](num_queries), persistent=False)
            # At first the queries predict their boxes.
            nn.init.zeros_(self.fc_reg.weight)
            nn.init.zeros_(self.fc_reg.bias)
        if self.loss_cls.use_sigmoid:
            # Few queries find an object: start from a low score, as focal losses do.
            nn.init.constant_(self.fc_cls.bias, bias_init_with_prob(0.01))

    def _levels(self, feats: Sequence[Tensor], mask: Tensor | None) -> list[Level]:
        return levels_of(self.scales, self.scale_strides, self.positional_encoding, feats, mask)

    def maps_without_queries(
        self, feats: Sequence[Tensor], mask: Tensor | None = None
    ) -> list[Tensor]:
        """The maps of :meth:`refine` if no query wrote to them; arguments and errors as there."""
        x: Tensor | None = None
        maps: list[Tensor] = []
        for scale, feature, scale_mask, coarser_mask, pos in self._levels(feats, mask):
            x = scale.enter(feature, scale_mask, x, coarser_mask)
            for block in scale.blocks:
                side = cast(E2EMFBlock, block).mobile
                # Without a closing layer the last block has none.
                x = x if side is None else side(x, scale_mask, pos)
            maps.append(x)
        return maps

    def refine(
        self,
        feats: Sequence[Tensor],
        mask: Tensor | None = None,
        extra: Queries | None = None,
        maps: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Refine the queries over the scales.

        Args:
            feats: The backbone's features, fine to coarse, each (N, C_i, H_i, W_i).
            mask: Padding mask of the images (N, H, W), True where padded.
            extra: Further queries, of training alone, which the head's own and the features do not
                read. They come first in the results.
            maps: A list that gets the map after each scale's blocks, coarse to fine, each
                (N, C, H_i, W_i).

        Returns:
            q^f after every block and after the closing layer, (K, N, Q, C), and the boxes
            predicted from each, (K, N, Q, 4) before the sigmoid.

        Raises:
            ValueError: If number or channels of the features are not those the head was built for.
        """
        levels = self._levels(feats, mask)
        queries = self._first_queries(feats[0].shape[0], extra)
        states, boxes = [], []
        x: Tensor | None = None
        place: Place | None = None
        read: Tensor | None = None
        for scale, feature, scale_mask, coarser_mask, pos in levels:
            place = Place.of_map(scale_mask, feature) if self.reference_boxes else None
            x = scale.enter(feature, scale_mask, x, coarser_mask)
            for part in scale.blocks:
                block = cast(E2EMFBlock, part)
                position, look = self._locate(queries, place, scale_mask)
                x, queries.content = block(
                    x, queries.content, position, scale_mask, pos, look, queries.apart,
                    None if extra is None else self.num_queries,
                    self.rivals_of(queries, place, read, scale_mask),
                )
                queries.position = block.adapt(queries.position, queries.content)
                states.append(queries.content)
                # A box in bf16 is off by up to two pixels at 1333: predict in float32 at least.
                with full_precision(x):
                    if scale is self.scales[-1] and self.reader is not None and place is not None:
                        read = self.reader(at_least_float32(x), scale_mask, place)
                    boxes.append(self.refine_boxes(queries, place, read, scale_mask))
            if maps is not None:
                maps.append(x)
        if self.closing is not None:
            scale_mask, pos = levels[-1].mask, levels[-1].pos
            position, look = self._locate(queries, place, scale_mask)
            queries.content, _ = self.closing(x, queries.content, scale_mask, pos, position, look)
            tell = self.rivals_of(queries, place, read, scale_mask)
            if tell is not None:
                # Scores have changed since the last block, and with them who is better.
                former = cast(E2EMFBlock, cast(HeadScale, self.scales[-1]).blocks[-1]).former
                shares = tell(queries.content)
                queries.content = former(queries.content, position, queries.apart, shares)
            states.append(queries.content)
            with full_precision(queries.content):
                boxes.append(self.refine_boxes(queries, place, read, scale_mask))
        return torch.stack(states), torch.stack(boxes)

    def _first_queries(self, batch: int, extra: Queries | None) -> Queries:
        """The head's own queries, behind ``extra`` ones."""
        position = self.query_embedding.weight.unsqueeze(0).expand(batch, -1, -1)
        reference = self.grid.expand(batch, -1, -1) if self.reference_boxes else None
        own = Queries(torch.zeros_like(position), position, reference)
        return own if extra is None else extra.followed_by(own)

    def _locate(
        self, queries: Queries, place: Place | None, mask: Tensor | None
    ) -> tuple[Tensor, Look | None]:
        """Position of the queries on the current map, and where their heads look."""
        if place is None or queries.reference is None:
            return queries.position, None
        boxes = queries.reference.sigmoid()
        centres = embed_centres(boxes, self.positional_encoding, place)
        with full_precision(boxes):
            look = place.look(boxes, self.num_heads, self.look, mask)
        return queries.position + centres, look

    def forward(
        self,
        feats: Sequence[Tensor],
        mask: Tensor | None = None,
        extra: Queries | None = None,
        maps: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict after every block.

        Args:
            feats: The backbone's features, fine to coarse, each (N, C_i, H_i, W_i).
            mask: Padding mask of the images (N, H, W), True where padded.
            extra, maps: As in :meth:`refine`.

        Returns:
            Class logits (K, N, Q, classes + 1), background last (none with sigmoid losses), and
            boxes (K, N, Q, 4) as normalised (cx, cy, w, h); the last of K is the result.
        """
        states, boxes = self.refine(feats, mask, extra, maps)
        with full_precision(states):
            logits = self.fc_cls(at_least_float32(states))
        return logits, boxes.sigmoid()

    def loss(
        self,
        feats: Sequence[Tensor],
        batch_data_samples: Sequence[Any],
        maps: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """DETR's losses of every prediction.

        Args:
            feats: As in :meth:`forward`.
            batch_data_samples: With ``gt_instances``; an image without any is fine.
            maps: As in :meth:`refine`.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_iou`` of the last prediction, ``d0.loss_cls`` ... of
            the others.
        """
        logits, boxes = self(feats, padding_mask(batch_data_samples, feats[0]), maps=maps)
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.loss_by_feat(logits, boxes, gt_instances, metas)

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        batch_gt_instances: Sequence[Any],
        batch_img_metas: Sequence[Any],
        batch_gt_instances_ignore: None = None,
    ) -> dict[str, Tensor]:
        """DETRHead's losses; see :func:`.head_losses.losses_of_blocks` for shapes."""
        arguments = (
            all_layers_cls_scores, all_layers_bbox_preds, batch_gt_instances, batch_img_metas
        )
        if is_hungarian(self.assigner):
            return losses_of_blocks(self, *arguments)
        # Others know one block and one image at a time.
        losses: dict[str, Tensor] = super().loss_by_feat(*arguments)
        return losses

    def predict(
        self, feats: Sequence[Tensor], batch_data_samples: Sequence[Any], rescale: bool = True
    ) -> list[Any]:
        """Boxes of the last prediction, best first, at most ``max_per_img``; there is no NMS.

        Args:
            feats: As in :meth:`forward`.
            batch_data_samples: Their meta information gives sizes and scale factors.
            rescale: Whether boxes are in pixels of the original image.

        Returns:
            One InstanceData per image with ``bboxes`` (M, 4) as (x1, y1, x2, y2), ``scores`` (M,)
            and ``labels`` (M,).
        """
        outs = self(feats, padding_mask(batch_data_samples, feats[0]))
        metas = [sample.metainfo for sample in batch_data_samples]
        results: list[Any] = self.predict_by_feat(*outs, batch_img_metas=metas, rescale=rescale)
        return results

    def loss_and_predict(
        self, feats: Sequence[Tensor], batch_data_samples: Sequence[Any]
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """:meth:`loss` and, from the same forward pass, predictions in pixels of the input."""
        logits, boxes = self(feats, padding_mask(batch_data_samples, feats[0]))
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        losses = self.loss_by_feat(logits, boxes, gt_instances, metas)
        return losses, self.predict_by_feat(logits, boxes, batch_img_metas=metas, rescale=False)
