"""Boxes near an object learn it, be they matched to it or not (ours, for short trainings).

One to one, few queries of an image learn what a box is; those beside them see the same object and learn
nothing of it. Here every box that overlaps an object learns that object's box, as in MS-DETR (arXiv
2401.03989), which does so with classes, too. In the end a second query on an object is to have a low
score, for there is no NMS, so classes of the last predictions stay one to one. Those of the first ones
need not: how good a box is can be learned from all near ones, and told to the rivals (H-DETR, arXiv
2207.13080, parts its layers so). Inference does not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps, bbox_xyxy_to_cxcywh
from mmdet.utils import reduce_mean
from torch import Tensor

from ..head_losses import image_sizes


def losses_of_near_boxes(
    head: Any, boxes: Tensor, gt_instances: Sequence[Any], metas: Sequence[Any], least: float
) -> dict[str, Tensor]:
    """Box losses of all predictions that are near an object.

    Args:
        head: A DETRHead, for its ``loss_bbox`` and ``loss_iou``.
        boxes: (K, N, Q, 4) as normalised (cx, cy, w, h).
        gt_instances: With ``bboxes`` (G, 4) in pixels, one per image.
        metas: mmdet's, with ``img_shape``, one per image.
        least: A prediction is near the object that it overlaps most, from this IoU on.

    Returns:
        ``near_loss_bbox``, ``near_loss_iou`` of the last block, ``d0.near_loss_bbox`` ... of the
        others: sums over a block's near predictions, by how many a block has on average.
    """
    blocks = len(boxes)
    sizes = image_sizes(boxes, metas)
    pixels = bbox_cxcywh_to_xyxy(boxes) * sizes[:, None]
    near = torch.zeros(boxes.shape[:3], dtype=torch.bool, device=boxes.device)
    goals = torch.zeros_like(pixels)
    for image, gt, overlaps in _overlaps(pixels, gt_instances):
        overlap, nearest = overlaps.max(dim=-1)
        near[:, image] = overlap >= least
        goals[:, image] = gt.bboxes[nearest]
    block, images, _ = near.nonzero(as_tuple=True)
    number = reduce_mean(boxes.new_tensor([len(block) / blocks])).clamp(min=1)
    shares = bbox_xyxy_to_cxcywh(goals[near] / sizes[images])
    each = {
        "near_loss_bbox": head.loss_bbox(boxes[near], shares, reduction_override="none"),
        "near_loss_iou": head.loss_iou(pixels[near], goals[near], reduction_override="none"),
    }
    losses = {}
    for name, loss in each.items():
        # mmdet's losses of nothing are one zero.
        rows = loss.reshape(len(block), -1).sum(1) if len(block) else loss.new_zeros(0)
        # DDP wants a gradient of every parameter, also where nothing is near.
        sums = boxes.sum(dim=(1, 2, 3)) * 0.0
        sums = sums.index_add(0, block, rows) / number
        losses.update({f"d{k}.{name}": sums[k] for k in range(blocks - 1)})
        losses[name] = sums[-1]
    return losses


def classes_of_near_boxes(
    head: Any,
    logits: Tensor,
    boxes: Tensor,
    gt_instances: Sequence[Any],
    metas: Sequence[Any],
    least: float,
) -> dict[str, Tensor]:
    """Class losses, one to many, of the first predictions, in place of those one to one.

    Args:
        head: A DETRHead with a ``QualityFocalLoss``.
        logits: (K, N, Q, classes).
        boxes: (K, N, Q, 4) as normalised (cx, cy, w, h).
        gt_instances: With ``bboxes`` (G, 4) in pixels and ``labels`` (G,), one per image.
        metas: mmdet's, with ``img_shape``, one per image.
        least: As in :func:`losses_of_near_boxes`. The best prediction of every object counts as near.

    Returns:
        ``d0.loss_cls`` ... of the K blocks: the targets of near predictions are their IoUs, the sums are
        divided by how many are near on average.
    """
    blocks = len(boxes)
    pixels = bbox_cxcywh_to_xyxy(boxes) * image_sizes(boxes, metas)[:, None]
    labels = torch.full(boxes.shape[:3], head.num_classes, dtype=torch.long, device=boxes.device)
    quality = pixels.new_zeros(boxes.shape[:3])
    for image, gt, overlaps in _overlaps(pixels, gt_instances):
        overlap, nearest = overlaps.max(dim=-1)
        best = torch.zeros_like(overlap, dtype=torch.bool).scatter_(1, overlaps.argmax(dim=1), True)
        near = best | (overlap >= least)
        labels[:, image][near] = gt.labels[nearest[near]]
        quality[:, image][near] = overlap[near]
    found = (labels < head.num_classes).sum() / blocks
    number = reduce_mean(found.to(boxes.dtype)).clamp(min=1)
    target = (labels.flatten(), quality.flatten())
    loss = head.loss_cls(logits.flatten(0, 2), target, reduction_override="none")
    sums = loss.reshape(blocks, -1).sum(1) / number
    return {f"d{k}.loss_cls": sums[k] for k in range(blocks)}


def _overlaps(pixels: Tensor, gt_instances: Sequence[Any]) -> Iterator[tuple[int, Any, Tensor]]:
    """Of every image that has objects its number, the objects, and the boxes' IoUs with them (K, Q, G)."""
    for image, gt in enumerate(gt_instances):
        if len(gt):
            boxes = pixels[:, image].detach()
            yield image, gt, bbox_overlaps(boxes, gt.bboxes.expand(len(boxes), -1, -1))
