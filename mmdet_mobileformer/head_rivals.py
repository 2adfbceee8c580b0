"""Queries see their rivals (ours, not the paper's).

There is no NMS, so of several queries on one object all but one have to find out that another has it.
In DETR they learn to, over many epochs, from contents and positions. Here a query's rivals are known:
the queries with a better score whose boxes overlap its own, by what would be predicted of the contents
that the self-attention reads. Some of its heads read these alone, and nothing where there are none.

A relation of boxes as a bias of the attention is Relation-DETR's idea (arXiv 2407.11699), that a worse
box looks to the better ones it overlaps that of learned NMS (arXiv 1705.02950). Nothing here is learned
and nothing adds parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

#: IoU from which on a better query is a rival rather than not, how sharply, and the odds at most:
#: ``(IoU / SEEN_FROM) ** STEEPNESS``, of which the logarithm is at most ``SURE``.
SEEN_FROM = 0.6
STEEPNESS = 8.0
SURE = 4.0
#: How sharply a score is better, per logit, and by how many logits it has to be for even odds. Queries on an
#: object that is hard to tell have scores that differ little: the best one must not see all the others.
#: Smooth, so that rounding does not decide what is seen.
SHARPNESS = 100.0
MARGIN = 0.06
#: Of how many heads one reads the rivals.
ONE_OF = 4
#: Score of a query for itself, and the least IoU whose logarithm is taken.
UNSEEN = -30.0
LEAST_IOU = 0.01


def told_former_heads(num_heads: int) -> int:
    """How many heads of the self-attention, the first, read the rivals; the others what they ask for."""
    return max(1, num_heads // ONE_OF)


def rival_shares(boxes: Tensor, scores: Tensor, apart: Tensor | None = None) -> Tensor:
    """What the heads that read the rivals are told to read.

    Args:
        boxes: The queries' boxes (N, Q, 4) as (cx, cy, w, h) before the sigmoid.
        scores: The queries' best class logits (N, Q).
        apart: (Q, Q), True where a query may not read another; None if all read all.

    Returns:
        Weights (N, Q, Q); what a row lacks of one is read of no query, as all is where there are no rivals.
    """
    overlap = pairwise_iou(bbox_cxcywh_to_xyxy(boxes.sigmoid()))
    odds = STEEPNESS * (overlap.clamp(min=LEAST_IOU).log() - math.log(SEEN_FROM))
    gap = scores[:, None, :] - scores[:, :, None]
    # The logarithm of a sigmoid.
    better = -F.softplus(SHARPNESS * (MARGIN - gap))
    # ONNX Runtime has no torch.eye of booleans.
    index = torch.arange(scores.shape[1], device=scores.device)
    itself = index[:, None] == index
    rivals = (odds.clamp(max=SURE) + better).masked_fill(itself, UNSEEN)
    if apart is not None:
        rivals = rivals.masked_fill(apart, float("-inf"))
    none = torch.zeros_like(rivals[..., :1])
    return torch.cat((rivals, none), dim=-1).softmax(dim=-1)[..., :-1]


def pairwise_iou(boxes: Tensor) -> Tensor:
    """IoU of every two boxes of an image.

    mmdet's ``bbox_overlaps`` checks values as it goes, which a traced graph cannot.

    Args:
        boxes: (N, Q, 4) as (x1, y1, x2, y2), none of them empty.

    Returns:
        (N, Q, Q).
    """
    # Side by side, as (N, Q, Q) each: products over a last dimension of two are slow.
    left, top, right, bottom = boxes.unbind(dim=-1)

    def pairs(of: Callable[[Tensor, Tensor], Tensor], side: Tensor) -> Tensor:
        return of(side[:, :, None], side[:, None])

    width = pairs(torch.minimum, right) - pairs(torch.maximum, left)
    height = pairs(torch.minimum, bottom) - pairs(torch.maximum, top)
    shared = width.clamp(min=0) * height.clamp(min=0)
    area = (right - left) * (bottom - top)
    return shared / (area[:, :, None] + area[:, None] - shared)
