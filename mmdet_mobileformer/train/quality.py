"""Varifocal loss where mmdet's heads of the DETR family take a quality focal loss (ours).

Both make the score learn the IoU of its box (arXiv 2008.13367, arXiv 2006.04388): there is no NMS,
so the order of the scores decides. mmdet's DETR heads hand labels and IoUs to QualityFocalLoss
alone; its VarifocalLoss wants a target for every class.
"""

from __future__ import annotations

import torch
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.losses.varifocal_loss import varifocal_loss
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class VarifocalQualityLoss(QualityFocalLoss):
    """mmdet's varifocal loss with QualityFocalLoss's targets.

    Args:
        alpha: Weight of the negatives.
        gamma: Exponent that makes easy negatives count less.
        iou_weighted: Whether positives count by their IoU.
        loss_weight: Weight of the loss.
    """

    def __init__(
        self,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(use_sigmoid=True, beta=gamma, loss_weight=loss_weight)
        self.alpha = alpha
        self.iou_weighted = iou_weighted

    def forward(
        self,
        pred: Tensor,
        target: tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            pred: Logits (N, classes).
            target: Labels (N,), the number of classes for none, and IoUs (N,).
            weight: Weight of each prediction (N,).
            avg_factor: What the sum is divided by; None for N * classes.
            reduction_override: 'none', 'mean' or 'sum' in place of 'mean'.

        Returns:
            The loss, or with 'none' that of every logit, (N, classes).
        """
        labels, quality = target
        goal = torch.zeros_like(pred)
        found = ((labels >= 0) & (labels < pred.shape[1])).nonzero().squeeze(1)
        goal[found, labels[found].long()] = quality[found].to(pred.dtype)
        loss: Tensor = varifocal_loss(
            pred,
            goal,
            None if weight is None else weight[:, None],
            alpha=self.alpha,
            gamma=self.beta,
            iou_weighted=self.iou_weighted,
            reduction=reduction_override or self.reduction,
            avg_factor=avg_factor,
        )
        return self.loss_weight * loss
