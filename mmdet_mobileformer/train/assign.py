"""Hungarian assignment that survives costs which are NaN or infinite (ours)."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner
from mmdet.registry import TASK_UTILS

from ..matching import match, total_cost
from .resume import type_name


@TASK_UTILS.register_module()
class FiniteHungarianAssigner(HungarianAssigner):
    """mmdet's HungarianAssigner with :func:`..matching.match`, the same for finite costs.

    Arguments are those of HungarianAssigner.
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
        rows, columns = match(
            total_cost(self.match_costs, pred_instances, gt_instances, img_meta), img_meta
        )
        labels = gt_instances.labels
        rows, columns = rows.to(labels.device), columns.to(labels.device)
        matched = labels.new_zeros(queries, dtype=torch.long)
        matched[rows] = columns + 1
        matched_labels = torch.full_like(matched, -1)
        matched_labels[rows] = labels[columns]
        return AssignResult(boxes, matched, None, labels=matched_labels)


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
