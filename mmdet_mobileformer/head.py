"""The head of E2E-MF: object queries refined from 1/32 through 1/16 to 1/8 (arXiv 2108.05895v3).

The paper gives the idea; the layers are reconstructed. What is known and what is ours stands in the
README under "Differs from the paper / reconstructed".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.layers import SinePositionalEncoding
from mmdet.registry import MODELS
from torch import Tensor, nn

from .archs import STRIDES, get_arch
from .head_blocks import E2EMFBlock, HeadScale, LiteSide, TransformerSide
from .layers import MobileToFormer


def padding_mask(batch_data_samples: Sequence[Any] | None, batch_inputs: Tensor) -> Tensor | None:
    """Padding mask of a batch from its data samples.

    Args:
        batch_data_samples: mmdet's data samples, whose ``img_shape`` is the valid size; or None.
        batch_inputs: Images or any tensor on their device.

    Returns:
        (N, H, W), True where padded; None if nothing is padded.
    """
    if not batch_data_samples:
        return None
    height, width = batch_data_samples[0].batch_input_shape
    shapes = [sample.img_shape[:2] for sample in batch_data_samples]
    if all(tuple(shape) == (height, width) for shape in shapes):
        return None
    mask = torch.ones(len(shapes), height, width, dtype=torch.bool, device=batch_inputs.device)
    for index, (valid_height, valid_width) in enumerate(shapes):
        mask[index, :valid_height, :valid_width] = False
    return mask


@MODELS.register_module()
class E2EMFHead(DETRHead):
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
        reference_points: Ours, not the paper's, and off by default: every query owns a point,
            starting on a grid. Its position starts as the point's sine embedding, the bridges start
            by looking there, and box centres are predicted relative to it. Adds two numbers per
            query.
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
        reference_points: bool = False,
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
        loss_cls, background = _split_background(loss_cls, num_classes)
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
        channels = _in_channels(arch, in_channels, self.scale_strides)
        _check_arguments(self.scale_strides, num_blocks, sides, position, embed_dims, num_heads)
        candidates = num_queries * (num_classes if self.loss_cls.use_sigmoid else 1)
        self.test_cfg["max_per_img"] = min(self.test_cfg.get("max_per_img", 100), candidates)

        adaptive = position == "adaptive"

        def make_side(kind: str) -> nn.Module:
            if kind == "transformer":
                return TransformerSide(embed_dims, num_heads, side_ffn_dims, dropout)
            return LiteSide(embed_dims, expansion)

        def make_block(kind: str, last: bool) -> E2EMFBlock:
            dead = last and not closing
            side = None if dead else make_side(kind)
            return E2EMFBlock(
                embed_dims, num_heads, query_ffn_dims, dropout, side, adaptive and not dead
            )

        self.scales = nn.ModuleList()
        last_scale = len(self.scale_strides) - 1
        for index, (count, kind) in enumerate(zip(num_blocks, sides)):
            blocks = [
                make_block(kind, last=index == last_scale and k == count - 1) for k in range(count)
            ]
            self.scales.append(HeadScale(channels[index], embed_dims, blocks, coarsest=index == 0))
        self.closing = (
            MobileToFormer(embed_dims, embed_dims, num_heads, dropout) if closing else None
        )
        self.query_embedding = nn.Embedding(num_queries, embed_dims)
        self.positional_encoding = SinePositionalEncoding(embed_dims // 2, normalize=True)
        self._reset_parameters()
        self.reference_points: nn.Embedding | None = None
        if reference_points:
            self.reference_points = nn.Embedding(num_queries, 2)
            self._look_at_grid(self.reference_points)

    def _look_at_grid(self, points: nn.Embedding) -> None:
        """Spread the points evenly and let the queries start by looking at theirs."""
        rows = round(points.num_embeddings**0.5)
        columns = -(-points.num_embeddings // rows)
        index = torch.arange(points.num_embeddings)
        y = (index // columns + 0.5) / -(-points.num_embeddings // columns)
        x = (index % columns + 0.5) / columns
        # The encoding of a fine map, read at the points, is that of the points.
        size = 64
        encoding = self.positional_encoding(torch.zeros(1, size, size, dtype=torch.bool))[0]
        with torch.no_grad():
            points.weight.copy_(torch.stack((x, y), dim=1).logit())
            self.query_embedding.weight.copy_(
                encoding[:, (y * size).long(), (x * size).long()].transpose(0, 1)
            )
            for module in self.modules():
                if isinstance(module, MobileToFormer):
                    nn.init.eye_(module.query.weight)

    def _reset_parameters(self) -> None:
        """Xavier-uniform matrices as in DETR; depthwise kernels keep their input's variance."""
        for module in (self.scales, self.closing):
            if module is None:
                continue
            for parameter in module.parameters():
                if parameter.dim() == 4 and parameter.shape[1] == 1:
                    # Xavier counts a depthwise kernel's outputs as if all were connected.
                    nn.init.kaiming_normal_(parameter, nonlinearity="linear")
                elif parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def refine(self, feats: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Refine the queries over the scales.

        Args:
            feats: The backbone's features, fine to coarse, each (N, C_i, H_i, W_i).
            mask: Padding mask of the images (N, H, W), True where padded.

        Returns:
            q^f after every block and after the closing layer, (K, N, Q, C).

        Raises:
            ValueError: If number or channels of the features are not those the head was built for.
        """
        feats = tuple(reversed(feats))
        expected = [scale.in_channels for scale in self.scales]
        found = [feat.shape[1] for feat in feats]
        if found != expected:
            raise ValueError(
                f"E2EMFHead got features of {found[::-1]} channels (fine to coarse) but was built "
                f"for {expected[::-1]}: give it the backbone's arch and the matching out_indices"
            )
        batch = feats[0].shape[0]
        position = self.query_embedding.weight.unsqueeze(0).expand(batch, -1, -1)
        content = torch.zeros_like(position)
        states = []
        x: Tensor | None = None
        scale_mask: Tensor | None = None
        pos = feats[0]
        for module, stride, feat in zip(self.scales, self.scale_strides, feats):
            scale, coarser_mask = cast(HeadScale, module), scale_mask
            scale_mask = None if mask is None else mask[:, ::stride, ::stride]
            # mmdet builds the encoding in float32; the sum keeps the features' precision.
            pos = self.positional_encoding(scale_mask, feat[:1]).to(feat.dtype)
            x = scale.enter(feat, scale_mask, x, coarser_mask)
            for block in scale.blocks:
                x, content, position = block(x, content, position, scale_mask, pos)
                states.append(content)
        if self.closing is not None:
            content, _ = self.closing(x, content, scale_mask, pos, position)
            states.append(content)
        return torch.stack(states)

    def forward(
        self, feats: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict after every block.

        Args:
            feats: The backbone's features, fine to coarse, each (N, C_i, H_i, W_i).
            mask: Padding mask of the images (N, H, W), True where padded.

        Returns:
            Class logits (K, N, Q, classes + 1), background last, and boxes (K, N, Q, 4) as
            normalised (cx, cy, w, h); the last of K is the result.
        """
        states = self.refine(feats, mask)
        # A box in bf16 is off by up to two pixels at 1333: predict in float32 at least.
        full = nullcontext() if states.is_meta else torch.autocast(states.device.type, enabled=False)
        with full:
            if states.dtype in (torch.bfloat16, torch.float16):
                states = states.float()
            logits = self.fc_cls(states)
            boxes = self.fc_reg(self.activate(self.reg_ffn(states)))
            if self.reference_points is not None:
                boxes = boxes + nn.functional.pad(self.reference_points.weight, (0, 2))
        return logits, boxes.sigmoid()

    def loss(
        self, feats: Sequence[Tensor], batch_data_samples: Sequence[Any]
    ) -> dict[str, Tensor]:
        """DETR's losses of every prediction.

        Args:
            feats: As in :meth:`forward`.
            batch_data_samples: With ``gt_instances``; an image without any is fine.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_iou`` of the last prediction, ``d0.loss_cls`` ... of
            the others.
        """
        outs = self(feats, padding_mask(batch_data_samples, feats[0]))
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        losses: dict[str, Tensor] = self.loss_by_feat(*outs, gt_instances, metas)
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
        outs = self(feats, padding_mask(batch_data_samples, feats[0]))
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        losses = self.loss_by_feat(*outs, gt_instances, metas)
        return losses, self.predict_by_feat(*outs, batch_img_metas=metas, rescale=False)


def _split_background(
    loss_cls: dict[str, Any] | None, num_classes: int
) -> tuple[dict[str, Any], float]:
    """A copy of ``loss_cls`` with a weight per class, and the weight of no-object.

    mmdet handles ``bg_cls_weight`` in DETRHead itself only, not in what is made of it.
    """
    if loss_cls is None:
        loss_cls = dict(type="CrossEntropyLoss", bg_cls_weight=0.1, use_sigmoid=False)
    loss_cls = copy.deepcopy(dict(loss_cls))
    background = loss_cls.pop("bg_cls_weight", None)
    if background is None:
        # Sigmoid losses have no background class.
        softmax = loss_cls["type"] == "CrossEntropyLoss" and not loss_cls.get("use_sigmoid", False)
        return loss_cls, 1.0 if softmax else 0.0
    weight = loss_cls.pop("class_weight", 1.0)
    if not isinstance(weight, (int, float)):
        raise ValueError("loss_cls has both bg_cls_weight and a class_weight list: give one")
    loss_cls["class_weight"] = [float(weight)] * num_classes + [float(background)]
    return loss_cls, float(background)


def _in_channels(
    arch: str | None, in_channels: Sequence[int] | None, scales: Sequence[int]
) -> list[int]:
    """Input channels per scale, coarse to fine."""
    if (arch is None) == (in_channels is None):
        raise ValueError("E2EMFHead takes either arch or in_channels: give one of them")
    if in_channels is not None:
        if len(in_channels) != len(scales):
            raise ValueError(
                f"in_channels has {len(in_channels)} entries for {len(scales)} scales: give one "
                "per scale, fine to coarse"
            )
        return list(in_channels)[::-1]
    unknown = [stride for stride in scales if stride not in STRIDES]
    if unknown:
        raise ValueError(f"scales has stride {unknown[0]}: Mobile-Former has {STRIDES}")
    widths = get_arch(str(arch)).out_channels
    return [widths[STRIDES.index(stride)] for stride in scales]


def _check_arguments(
    scales: Sequence[int],
    num_blocks: Sequence[int],
    sides: Sequence[str],
    position: str,
    embed_dims: int,
    num_heads: int,
) -> None:
    if not scales or list(scales) != sorted(set(scales), reverse=True):
        raise ValueError(f"scales is {tuple(scales)}: give strides from coarse to fine")
    if len(num_blocks) != len(scales) or len(sides) != len(scales) or min(num_blocks) < 1:
        raise ValueError(
            f"num_blocks {tuple(num_blocks)} and sides {tuple(sides)} need one entry per scale "
            f"{tuple(scales)}, at least one block each"
        )
    unknown = [side for side in sides if side not in ("transformer", "lite")]
    if unknown:
        raise ValueError(f"side {unknown[0]!r} is unknown: choose 'transformer' or 'lite'")
    if position not in ("adaptive", "shared"):
        raise ValueError(f"position is {position!r}: choose 'adaptive' or 'shared'")
    if embed_dims % num_heads or embed_dims % 4:
        raise ValueError(f"embed_dims {embed_dims} must be a multiple of 4 and of {num_heads} heads")
