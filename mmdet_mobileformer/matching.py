"""One-to-one matching of predictions and boxes that survives costs which are NaN or infinite (ours)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner
from mmdet.registry import TASK_UTILS
from scipy.optimize import linear_sum_assignment
from torch import Tensor

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


def total_cost(
    match_costs: Sequence[Any], pred_instances: Any, gt_instances: Any, img_meta: Any
) -> Tensor:
    """The sum of mmdet's match costs (queries, boxes), detached, on the CPU."""
    costs = [
        match_cost(pred_instances=pred_instances, gt_instances=gt_instances, img_meta=img_meta)
        for match_cost in match_costs
    ]
    return torch.stack(costs).sum(dim=0).detach().cpu()


def match(cost: Tensor, img_meta: Mapping[str, Any] | None = None) -> tuple[Tensor, Tensor]:
    """Hungarian matching; scipy by itself refuses a matrix with costs that are not finite.

    Such a cost counts as worse than all finite ones, so the pair is matched only where nothing else is
    left. That is said once per process: the cause, predictions or boxes that are not finite, makes
    the loss NaN, and tools/train.py then stops and names it.

    Args:
        cost: (queries, boxes), on the CPU.
        img_meta: mmdet's, whose ``img_path`` the warning names.

    Returns:
        Indices of matched queries and of their boxes, each (min(queries, boxes),).
    """
    usable = finite_costs(cost)
    if usable is not cost:
        _warn_once(img_meta)
    rows, columns = linear_sum_assignment(usable)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _warn_once(img_meta: Mapping[str, Any] | None) -> None:
    global _warned
    if not _warned:
        _warned = True
        image = (img_meta or {}).get("img_path", "an image")
        warnings.warn(
            f"costs of the Hungarian assignment for {image} are NaN or infinite and count as the "
            "worst; this is said once",
            stacklevel=3,
        )


@TASK_UTILS.register_module()
class FiniteHungarianAssigner(HungarianAssigner):
    """mmdet's HungarianAssigner with :func:`match`, the same for finite costs.

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


def is_hungarian(assigner: Any) -> bool:
    """Whether an assigner does what :func:`match` does with its ``match_costs``.

    A subclass may assign otherwise, so it does not count.
    """
    return type(assigner) in (HungarianAssigner, FiniteHungarianAssigner)
