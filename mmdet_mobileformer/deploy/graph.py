"""The detector as one function of tensors: images in, sorted boxes out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import MobileFormer
from ..detector import E2EMF
from ..head import E2EMFHead
from .exact import ExactOperators
from .fold import deploy


class DetectorGraph(nn.Module):
    """E2E-MF from RGB images to normalised boxes, as the exported file computes it.

    What only training needs (auxiliary heads, denoising) is left behind.

    Args:
        detector: A detector of mmdet with an :class:`E2EMFHead`.
        normalize: Whether mean and standard deviation are applied here.
        fold: Whether an E2EMF on a MobileFormer is folded by
            :func:`~mmdet_mobileformer.deploy.fold.deploy`, for torch's operators.

    Raises:
        ValueError: If the detector has another head, or pads its images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Any, normalize: bool = True, fold: bool = False) -> None:
        super().__init__()
        head = getattr(detector, "bbox_head", None)
        if not isinstance(head, E2EMFHead):
            raise ValueError(
                f"{type(detector).__name__} with {type(head).__name__} is not exported: only "
                "detectors with an E2EMFHead are; mmdeploy takes many of mmdet's own"
            )
        folded = detector
        if fold and isinstance(detector, E2EMF) and isinstance(detector.backbone, MobileFormer):
            folded = deploy(detector, kernels=False)
        self.backbone, self.head = folded.backbone, folded.bbox_head
        self.neck = folded.neck if folded.with_neck else None
        preprocessor = detector.data_preprocessor
        if preprocessor.pad_size_divisor != 1:
            raise ValueError(
                f"data_preprocessor.pad_size_divisor is {preprocessor.pad_size_divisor}, but in an "
                "exported file every image fills its input: set it to 1, which E2E-MF can"
            )
        #: Whether the network was trained on BGR, OpenCV's order.
        self.bgr = not preprocessor._channel_conversion
        applied = normalize and preprocessor._enable_normalize
        self.normalize = applied
        mean, std = statistics(detector)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images: RGB (N, 3, H, W), 0 to 255, or normalised without ``normalize``.

        Returns:
            Boxes (N, Q, 4) as x1, y1, x2, y2 in shares of width and height, scores (N, Q) best
            first, labels (N, Q).
        """
        with ExactOperators():
            x = (images - self.mean) / self.std if self.normalize else images
            if self.bgr:
                x = x.index_select(1, torch.tensor([2, 1, 0]))
            feats = self.backbone(x)
            if self.neck is not None:
                feats = self.neck(feats)
            logits, boxes = self.head(feats)
            return self.select(logits[-1], boxes[-1])

    def select(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best of the queries, as DETRHead._predict_by_feat_single does it for one image.

        Args:
            logits: (N, Q, classes), with the background last where the loss is a softmax.
            boxes: (N, Q, 4) as cx, cy, w, h.

        Returns:
            As :meth:`forward`.
        """
        most = int(self.head.test_cfg["max_per_img"])
        if self.head.loss_cls.use_sigmoid:
            scores, index = logits.sigmoid().flatten(1).topk(most)
            labels = index % self.head.num_classes
            query = index // self.head.num_classes
        else:
            best, label = F.softmax(logits, dim=-1)[..., :-1].max(-1)
            scores, query = best.topk(most)
            labels = label.gather(1, query)
        chosen = boxes.gather(1, query.unsqueeze(-1).expand(-1, -1, 4))
        centre, half = chosen[..., :2], chosen[..., 2:] / 2
        corners = torch.cat((centre - half, centre + half), dim=-1)
        return corners.clamp(0, 1), scores, labels


def statistics(detector: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the detector's preprocessor for RGB; 0 and 1 without."""
    preprocessor = detector.data_preprocessor
    if not preprocessor._enable_normalize:
        return [0.0] * 3, [1.0] * 3
    mean = [float(value) for value in preprocessor.mean.flatten()]
    std = [float(value) for value in preprocessor.std.flatten()]
    if not preprocessor._channel_conversion:
        mean, std = mean[::-1], std[::-1]
    return mean, std
