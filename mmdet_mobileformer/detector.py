"""E2E-MF, the detector: Mobile-Former and its head, without neck and without NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS
from torch import Tensor

from .backbone import MIN_SIZE
from .padding import padding_mask


@MODELS.register_module()
class E2EMF(SingleStageDetector):
    """Single-stage detector that hands the padding mask to its backbone.

    Arguments, losses and predictions are those of mmdet's SingleStageDetector. The head,
    :class:`E2EMFHead`, takes the mask from the data samples itself, so it also works in other
    detectors; the backbone has no data samples and gets the mask here.
    """

    def extract_feat(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[Any] | None = None
    ) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) to features, fine to coarse.

        What is less than the backbone's 32 px high or wide, a panorama say, is padded to that; the
        data samples then tell the head.
        """
        if batch_data_samples:
            batch_inputs = _pad_to_least(batch_inputs, batch_data_samples)
        mask = padding_mask(batch_data_samples, batch_inputs)
        if mask is not None and getattr(self.backbone, "takes_mask", False):
            feats: tuple[Tensor, ...] = self.backbone(batch_inputs, mask)
        else:
            feats = self.backbone(batch_inputs)
        return self.neck(feats) if self.with_neck else feats

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of a batch: images (N, 3, H, W) and data samples with ``gt_instances``."""
        feats = self.extract_feat(batch_inputs, batch_data_samples)
        losses: dict[str, Tensor] = self.bbox_head.loss(feats, batch_data_samples)
        return losses

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[Any], rescale: bool = True
    ) -> Sequence[Any]:
        """The data samples with ``pred_instances``; in original pixels if ``rescale``."""
        feats = self.extract_feat(batch_inputs, batch_data_samples)
        results = self.bbox_head.predict(feats, batch_data_samples, rescale=rescale)
        samples: Sequence[Any] = self.add_pred_to_datasample(batch_data_samples, results)
        return samples

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """``mode='tensor'``: class logits (K, N, Q, C+1) and boxes (K, N, Q, 4)."""
        feats = self.extract_feat(batch_inputs, batch_data_samples)
        outs: tuple[Tensor, Tensor] = self.bbox_head(
            feats, padding_mask(batch_data_samples, batch_inputs)
        )
        return outs


def _pad_to_least(batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> Tensor:
    height, width = batch_inputs.shape[-2:]
    below, right = max(0, MIN_SIZE - height), max(0, MIN_SIZE - width)
    if not (below or right):
        return batch_inputs
    for sample in batch_data_samples:
        sample.set_metainfo(dict(batch_input_shape=(height + below, width + right)))
    return F.pad(batch_inputs, (0, right, 0, below))
