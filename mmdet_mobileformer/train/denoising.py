"""Further queries in training only: denoising and shifted grids (ours, for the fast recipe).

Hungarian matching gives each object to one of many queries, and another one from step to step, so a
query learns slowly what it is for. Denoising queries (DN-DETR, arXiv 2203.01305; DINO, arXiv
2203.03605) start from noisy ground truth and know their object; groups of further queries (Group
DETR, arXiv 2207.13085) give each object to several. Neither exists after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from mmdet.models.layers import CdnQueryGenerator
from mmdet.models.losses import QualityFocalLoss
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from torch import Tensor, nn

from ..head import E2EMFHead
from ..head_blocks import HeadScale
from ..head_losses import Matches, losses_of_matches
from ..head_reference import Queries, embed_centres
from ..padding import padding_mask
from .near_boxes import classes_of_near_boxes, losses_of_near_boxes


@MODELS.register_module()
class E2EMFTrainingHead(E2EMFHead):
    """E2EMFHead with further queries while it trains; its predictions are those of E2EMFHead.

    Args:
        denoising: ``label_noise_scale``, ``box_noise_scale`` and ``group_cfg`` of mmdet's
            CdnQueryGenerator; None for no denoising queries. Adds an embedding of the classes,
            which inference does not read.
        groups: Groups of further queries, each matched one to one by itself: the head's own with
            their boxes shifted at random; without ``reference_boxes``, learned ones, which inference
            does not read.
        near: Boxes that overlap an object by this IoU learn it, matched or not; see :mod:`.near_boxes`.
        near_classes: So many of the first predictions learn the classes of such boxes, too, with
            their IoU as quality; the others say which query has the object. Needs ``near`` and a
            quality focal loss.
        kwargs: Arguments of :class:`E2EMFHead`. Without ``reference_boxes`` a denoising query knows
            the noisy centre by its position, and the noisy class, but not the size.

    Raises:
        ValueError: If ``groups`` is negative, ``near`` is not between 0 and 1, or ``near_classes``
            leaves no prediction one to one or lacks what it needs.
    """

    def __init__(
        self,
        *,
        denoising: dict[str, Any] | None = None,
        groups: int = 0,
        near: float | None = None,
        near_classes: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if groups < 0:
            raise ValueError(f"groups is {groups}: give 0 or more groups of further queries")
        if near is not None and not 0 < near < 1:
            raise ValueError(f"near is {near}: give an IoU between 0 and 1, or None for no such loss")
        predictions = sum(len(cast(HeadScale, scale).blocks) for scale in self.scales)
        predictions += self.closing is not None
        if not 0 <= near_classes < predictions:
            raise ValueError(f"near_classes is {near_classes}: give 0 to {predictions - 1}, of this head's "
                             f"{predictions} predictions")
        if near_classes and (near is None or not isinstance(self.loss_cls, QualityFocalLoss)):
            raise ValueError("near_classes needs near, and QualityFocalLoss or VarifocalQualityLoss as "
                             "loss_cls, whose targets are IoUs")
        self.near = near
        self.near_classes = near_classes
        self.groups = groups
        self.group_queries = None
        if groups and not self.reference_boxes:
            self.group_queries = nn.Embedding(groups * self.num_queries, self.embed_dims)
            # All groups start as the head's own queries do, and part by their matches.
            start = self.query_embedding.weight.detach().repeat(groups, 1)
            noise = torch.randn_like(start) * 0.1
            self.group_queries.weight.data.copy_(start + noise)
        self.denoising = None
        if denoising is not None:
            self.denoising = CdnQueryGenerator(
                num_classes=self.num_classes,
                embed_dims=self.embed_dims,
                num_matching_queries=self.num_queries,
                **denoising,
            )

    def loss(
        self,
        feats: Sequence[Tensor],
        batch_data_samples: Sequence[Any],
        maps: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """As :class:`E2EMFHead`, with ``dn_*`` and ``group_*`` for the further queries, and ``near_*``."""
        extra, dn_meta = self._extra_queries(batch_data_samples)
        logits, boxes = self(feats, padding_mask(batch_data_samples, feats[0]), extra, maps)
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        first = logits.shape[2] - self.num_queries
        losses = self.loss_by_feat(logits[:, :, first:], boxes[:, :, first:], gt_instances, metas)
        if self.near is not None:
            own = boxes[:, :, first:]
            losses.update(losses_of_near_boxes(self, own, gt_instances, metas, self.near))
            if self.near_classes:
                some = slice(self.near_classes)
                losses.update(
                    classes_of_near_boxes(
                        self, logits[some, :, first:], own[some], gt_instances, metas, self.near
                    )
                )
        for _ in range(self.groups):
            first -= self.num_queries
            one = slice(first, first + self.num_queries)
            group = self.loss_by_feat(logits[:, :, one], boxes[:, :, one], gt_instances, metas)
            for name, value in group.items():
                name = f"group_{name}"
                losses[name] = losses.get(name, 0) + value / self.groups
        if dn_meta is not None:
            logits, boxes = logits[:, :, :first], boxes[:, :, :first]
            matches = denoising_matches(logits, gt_instances, dn_meta, self.num_classes)
            # Half of the queries of each object are to find nothing.
            found = losses_of_matches(self, logits, boxes, matches, metas, matches.per_block)
            for name, value in found.items():
                block, dot, loss = name.rpartition(".")
                losses[f"{block}{dot}dn_{loss}"] = value
        elif self.denoising is not None:
            # DDP wants a gradient of every parameter, also from a batch without boxes, and processes that
            # have boxes wait for the others' part in their averages.
            for _ in range(2 if self.sync_cls_avg_factor else 1):
                reduce_mean(logits.new_zeros(1))
            losses["dn_loss_cls"] = 0.0 * self.denoising.label_embedding.weight.sum()
        return losses

    def _extra_queries(
        self, samples: Sequence[Any]
    ) -> tuple[Queries | None, dict[str, int] | None]:
        """Denoising queries, then the groups."""
        extra: Queries | None = None
        dn_meta = None
        if self.denoising is not None and any(len(sample.gt_instances) for sample in samples):
            content, boxes, apart, dn_meta = self.denoising(list(samples))
            count = boxes.shape[1]
            apart = apart[:count, :count]
            if self.reference_boxes:
                extra = Queries(content, torch.zeros_like(content), boxes, apart)
            else:
                centres = embed_centres(boxes.sigmoid(), self.positional_encoding)
                extra = Queries(content, centres.to(content.dtype), None, apart)
        for index in range(self.groups):
            group = self._group(len(samples), index)
            extra = group if extra is None else extra.followed_by(group)
        return extra, dn_meta

    def _group(self, batch: int, index: int) -> Queries:
        """One group of further queries."""
        group = self._first_queries(batch, None)
        if self.group_queries is not None:
            first = index * self.num_queries
            own = self.group_queries.weight[first : first + self.num_queries]
            group.position = own.unsqueeze(0).expand(batch, -1, -1)
        if group.reference is not None:
            boxes = group.reference.sigmoid()
            shift = (torch.rand_like(boxes[..., :2]) - 0.5) * boxes[..., 2:]
            scale = torch.exp2(torch.rand_like(shift) * 2 - 1)
            boxes = torch.cat((boxes[..., :2] + shift, boxes[..., 2:] * scale), dim=-1)
            group.reference = boxes.clamp(1e-3, 1 - 1e-3).logit()
        return group


def denoising_matches(
    logits: Tensor, gt_instances: Sequence[Any], dn_meta: dict[str, int], num_classes: int
) -> Matches:
    """Which denoising query started from which box, as mmdet's DINOHead has it.

    mmdet's ``DINOHead.loss_dn`` gives the same losses block by block and image by image.

    Args:
        logits: Those of the denoising queries, (K, N, Q, classes).
        gt_instances: With ``bboxes`` (G, 4) in pixels and ``labels`` (G,), one per image.
        dn_meta: mmdet's; in each group the queries of the boxes come first, an image's in their order.
        num_classes: Classes without the background.
    """
    blocks, _, queries = logits.shape[:3]
    groups = dn_meta["num_denoising_groups"]
    device = logits.device
    first = torch.arange(groups, device=device)[:, None] * (queries // groups)
    images, places = [], []
    for image, gt in enumerate(gt_instances):
        own = (first + torch.arange(len(gt), device=device)).flatten()
        images.append(torch.full_like(own, image))
        places.append(own)
    boxes = torch.cat([gt.bboxes.repeat(groups, 1) for gt in gt_instances])
    classes = torch.cat([gt.labels.repeat(groups) for gt in gt_instances])
    n, q = torch.cat(images), torch.cat(places)
    labels = torch.full(logits.shape[:3], num_classes, dtype=torch.long, device=device)
    labels[:, n, q] = classes
    k = torch.arange(blocks, device=device).repeat_interleave(len(n))
    return Matches(labels, k, n.repeat(blocks), q.repeat(blocks), boxes.repeat(blocks, 1))
