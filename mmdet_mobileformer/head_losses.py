"""DETR's losses of the predictions after every block, in one go (ours; the numbers are mmdet's).

mmdet computes them block by block and image by image. On small models that takes longer than the
arithmetic: here an image's costs are computed for all blocks at once, and the losses of all blocks
and images too. What is matched and what is summed is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.losses import QualityFocalLoss
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps, bbox_xyxy_to_cxcywh
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from .matching import match, total_cost


@dataclass
class Matches:
    """Predictions that are matched to a box, of all K blocks and N images together.

    Attributes:
        labels: Class of every prediction (K, N, Q); the number of classes for none.
        blocks, images, queries: Where the matched predictions are, each (P,).
        boxes: Their boxes (P, 4) as (x1, y1, x2, y2) in pixels.
    """

    labels: Tensor
    blocks: Tensor
    images: Tensor
    queries: Tensor
    boxes: Tensor

    @property
    def per_block(self) -> float:
        """How many are matched in a block, the same number in every one."""
        return len(self.blocks) / len(self.labels)


def match_blocks(
    head: Any, logits: Tensor, pixels: Tensor, gt_instances: Sequence[Any], metas: Sequence[Any]
) -> Matches:
    """Match the predictions of each block and image to the image's boxes, one to one.

    Args:
        head: A DETRHead whose assigner has ``match_costs``.
        logits: (K, N, Q, classes).
        pixels: Boxes (K, N, Q, 4) as (x1, y1, x2, y2) in pixels.
        gt_instances: With ``bboxes`` (G, 4) in pixels and ``labels`` (G,), one per image.
        metas: mmdet's, one per image.
    """
    blocks, _, queries = logits.shape[:3]
    # Places of matched predictions in (K, N, Q), and numbers of their boxes in all images' boxes.
    places: list[tuple[int, int, Tensor]] = []
    numbers: list[Tensor] = []
    first = 0
    logits, pixels = logits.detach(), pixels.detach()
    for image, (gt, meta) in enumerate(zip(gt_instances, metas)):
        if len(gt):
            predictions = InstanceData(
                scores=logits[:, image].flatten(0, 1), bboxes=pixels[:, image].flatten(0, 1)
            )
            cost = total_cost(head.assigner.match_costs, predictions, gt, meta)
            for block, one in enumerate(cost.view(blocks, queries, -1)):
                rows, columns = match(one, meta)
                places.append((block, image, rows))
                numbers.append(columns + first)
        first += len(gt)
    device = logits.device
    labels = torch.full(logits.shape[:3], head.num_classes, dtype=torch.long, device=device)
    if not places:
        none = torch.zeros(0, dtype=torch.long, device=device)
        return Matches(labels, none, none, none, pixels.new_zeros(0, 4))
    k = torch.cat([torch.full_like(rows, block) for block, _, rows in places]).to(device)
    n = torch.cat([torch.full_like(rows, image) for _, image, rows in places]).to(device)
    q = torch.cat([rows for _, _, rows in places]).to(device)
    number = torch.cat(numbers).to(device)
    labels[k, n, q] = torch.cat([gt.labels for gt in gt_instances])[number]
    return Matches(labels, k, n, q, torch.cat([gt.bboxes for gt in gt_instances])[number])


def losses_of_blocks(
    head: Any,
    logits: Tensor,
    boxes: Tensor,
    gt_instances: Sequence[Any],
    metas: Sequence[Any],
) -> dict[str, Tensor]:
    """What mmdet's ``DETRHead.loss_by_feat`` returns, up to the order of its sums.

    Args:
        head: A DETRHead whose assigner has ``match_costs``.
        logits: (K, N, Q, classes).
        boxes: (K, N, Q, 4) as normalised (cx, cy, w, h).
        gt_instances: With ``bboxes`` (G, 4) in pixels and ``labels`` (G,), one per image.
        metas: mmdet's, with ``img_shape``, one per image.

    Returns:
        ``loss_cls``, ``loss_bbox``, ``loss_iou`` of the last block, ``d0.loss_cls`` ... of the others.
    """
    pixels = bbox_cxcywh_to_xyxy(boxes) * image_sizes(boxes, metas)[:, None]
    matches = match_blocks(head, logits, pixels, gt_instances, metas)
    negative = matches.labels[0].numel() - matches.per_block
    return losses_of_matches(head, logits, boxes, matches, metas, negative)


def image_sizes(boxes: Tensor, metas: Sequence[Any]) -> Tensor:
    """(w, h, w, h) in pixels of every image, (N, 4), as ``boxes`` are typed and placed."""
    return boxes.new_tensor([tuple(meta["img_shape"][1::-1]) * 2 for meta in metas])


def losses_of_matches(
    head: Any,
    logits: Tensor,
    boxes: Tensor,
    matches: Matches,
    metas: Sequence[Any],
    negative: float,
) -> dict[str, Tensor]:
    """The losses of :func:`losses_of_blocks` for given matches.

    Args:
        head, logits, boxes, metas: As there.
        matches: As many in every block.
        negative: Predictions of a block that the average of the classification counts as no-object.
    """
    blocks = len(logits)
    sizes = image_sizes(boxes, metas)
    pixels = bbox_cxcywh_to_xyxy(boxes) * sizes[:, None]
    where = (matches.blocks, matches.images, matches.queries)
    positive = matches.per_block

    factor = positive + negative * head.bg_cls_weight
    if head.sync_cls_avg_factor:
        factor = float(reduce_mean(logits.new_tensor([factor])))
    target: Any = matches.labels.flatten()
    if isinstance(head.loss_cls, QualityFocalLoss):
        quality = boxes.new_zeros(matches.labels.shape)
        quality[where] = bbox_overlaps(pixels[where].detach(), matches.boxes, is_aligned=True)
        target = (target, quality.flatten())
    loss_cls = head.loss_cls(logits.flatten(0, 2), target, reduction_override="none")
    loss_cls = loss_cls.reshape(blocks, -1).sum(1) / max(factor, 1)

    number = reduce_mean(logits.new_tensor([positive])).clamp(min=1)
    goals = bbox_xyxy_to_cxcywh(matches.boxes / sizes[matches.images])
    loss_iou = head.loss_iou(pixels[where], matches.boxes, reduction_override="none")
    loss_bbox = head.loss_bbox(boxes[where], goals, reduction_override="none")

    def per_block(loss: Tensor) -> Tensor:
        sums = loss.new_zeros(blocks)
        if positive == 0:
            # mmdet's losses of nothing are one zero, which still hangs on the predictions.
            return sums + loss.sum()
        each = loss.reshape(len(matches.blocks), -1).sum(1)
        return sums.index_add(0, matches.blocks, each) / number

    parts = {"loss_cls": loss_cls, "loss_bbox": per_block(loss_bbox), "loss_iou": per_block(loss_iou)}
    losses = {name: values[-1] for name, values in parts.items()}
    for block in range(blocks - 1):
        losses.update({f"d{block}.{name}": values[block] for name, values in parts.items()})
    return losses
