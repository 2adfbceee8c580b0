"""Hungarian assignment that survives costs which are NaN or infinite (ours)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner
from mmdet.registry import TASK_UTILS
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .resume import type_name

_warned = False


def finite_costs(cost: Tensor) -> Tensor:
    """Replace NaN and infinities by a number larger than every finite cost, so they match last.

    Args:
        cost: (queries, boxes), on the CPU.

    Returns:
        The same tensor if all is finite, else a copy in float64.
    """
    finite = torch.isfinite(cost)
    if bool(finite.all()):
        return cost
    known = cost[finite].double()
    # So large that no number of good matches makes up for one bad one.
    matches = min(cost.shape)
    worst = float(known.max() + (known.max() - known.min() + 1) * matches) if len(known) else 1.0
    return torch.where(finite, cost.double(), torch.tensor(worst, dtype=torch.float64))


@TASK_UTILS.register_module()
class FiniteHungarianAssigner(HungarianAssigner):
    """mmdet's HungarianAssigner, the same for finite costs; scipy refuses a matrix with any other.

    A cost that is not finite counts as worse than all finite ones, so the pair is matched only where
    nothing else is left. Says so once per process: the cause, predictions or boxes that are not
    finite, makes the loss NaN, and tools/train.py then stops and names it. Arguments are those of
    HungarianAssigner.
    """

    def assign(
        self, pred_instances: Any, gt_instances: Any, img_meta: Any = None, **kwargs: Any
    ) -> AssignResult:
        """Match each box to one query.

        Args:
            pred_instances: With what the match costs read, such as ``scores`` and ``bboxes``.
            gt_instances: With ``bboxes`` (boxes, 4) and ``labels`` (boxes,).
            img_meta: Information of the image for the match costs.

        Returns:
            ``gt_inds`` (queries,): 0 where unmatched, else the box's index plus one; ``labels``.
        """
        queries, boxes = len(pred_instances), len(gt_instances)
        if queries == 0 or boxes == 0:
            return super().assign(pred_instances, gt_instances, img_meta, **kwargs)
        costs = [
            match_cost(pred_instances=pred_instances, gt_instances=gt_instances, img_meta=img_meta)
            for match_cost in self.match_costs
        ]
        cost = torch.stack(costs).sum(dim=0).detach().cpu()
        usable = finite_costs(cost)
        if usable is not cost:
            _warn_once(img_meta)
        rows, columns = (torch.from_numpy(index) for index in linear_sum_assignment(usable))
        labels = gt_instances.labels
        rows, columns = rows.to(labels.device), columns.to(labels.device)
        matched = labels.new_zeros(queries, dtype=torch.long)
        matched[rows] = columns + 1
        matched_labels = torch.full_like(matched, -1)
        matched_labels[rows] = labels[columns]
        return AssignResult(boxes, matched, None, labels=matched_labels)


def _warn_once(img_meta: Any) -> None:
    global _warned
    if not _warned:
        _warned = True
        image = (img_meta or {}).get("img_path", "an image")
        warnings.warn(
            f"costs of the Hungarian assignment for {image} are NaN or infinite and count as the "
            "worst; this is said once",
            stacklevel=3,
        )


def use_finite_assigner(value: Any) -> None:
    """Put this assigner in place of every HungarianAssigner below a model's config, in place."""
    if isinstance(value, dict):
        if type_name(value) == "HungarianAssigner":
            value["type"] = "FiniteHungarianAssigner"
        for item in value.values():
            use_finite_assigner(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            use_finite_assigner(item)
