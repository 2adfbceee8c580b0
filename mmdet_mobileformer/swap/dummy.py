"""A small batch with every annotation that some detector of mmdet asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

from .common import dicts_in

#: Boxes (x1, y1, x2, y2) as shares of the side: a large one, a small one, two that overlap.
BOXES = ((0.05, 0.10, 0.60, 0.70), (0.70, 0.05, 0.92, 0.30), (0.45, 0.40, 0.95, 0.95))
IMAGES = 2


def dummy_batch(cfg: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Two images as mmdet's data loaders give them, before the data preprocessor.

    Each has boxes, labels, ignored boxes (none) and a semantic map; masks where the training
    pipeline loads them, and proposals where the detector has no RPN of its own.

    Args:
        cfg: A whole config: the number of classes, what the pipeline loads, and whether the detector
            is trained semi-supervised follow from it.
        size: Side of the images, in pixels.

    Returns:
        ``inputs`` and ``data_samples``, of every branch where training is semi-supervised.
    """
    images = [_image(size, index) for index in range(IMAGES)]
    samples = [_sample(cfg, size, index) for index in range(IMAGES)]
    if "semi_train_cfg" not in cfg["model"]:
        return dict(inputs=images, data_samples=samples)
    branches = ("sup", "unsup_teacher", "unsup_student")
    return dict(
        inputs={branch: [image.clone() for image in images] for branch in branches},
        data_samples={branch: [sample.clone() for sample in samples] for branch in branches},
    )


def _boxes(size: int, index: int) -> torch.Tensor:
    boxes = torch.tensor(BOXES) * size
    return boxes if index == 0 else size - boxes[:, [2, 3, 0, 1]]


def _image(size: int, index: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(index)
    image = torch.randint(0, 128, (3, size, size), generator=generator, dtype=torch.uint8)
    for number, box in enumerate(_boxes(size, index).int().tolist()):
        image[number % 3, box[1] : box[3], box[0] : box[2]] += 120
    return image


def _masks(boxes: torch.Tensor, size: int) -> BitmapMasks:
    """An ellipse in each box."""
    y, x = np.mgrid[:size, :size] + 0.5
    masks = np.zeros((len(boxes), size, size), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist()):
        mask[:] = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1
    return BitmapMasks(masks, size, size)


def _sample(cfg: Mapping[str, Any], size: int, index: int) -> DetDataSample:
    boxes = _boxes(size, index)
    things, stuff = _classes(cfg["model"])
    masks = _masks(boxes, size)
    sample = DetDataSample(
        metainfo=dict(
            img_id=index,
            img_path="",
            ori_shape=(size, size),
            img_shape=(size, size),
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            border=np.array([0, size, 0, size]),  # CenterNet: rows and columns that are no padding
            homography_matrix=np.eye(3, dtype=np.float32),  # semi-supervised training
        )
    )
    labels = torch.arange(len(boxes)) % things
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=boxes.new_zeros(0, 4), labels=labels[:0])
    if _loads_masks(cfg):
        sample.gt_instances.masks = masks
        sample.ignored_instances.masks = BitmapMasks([], size, size)
    semantic = np.full((size, size), stuff, dtype=np.uint8)
    for label, mask in zip(labels.tolist(), masks.masks):
        semantic[mask > 0] = label
    step = round(1 / _semantic_scale(cfg))
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic[None, ::step, ::step].copy()))
    if not any("rpn_head" in part for _, part in dicts_in(cfg["model"])):
        # Fast R-CNN takes proposals from elsewhere. Others would take them in the RPN's place.
        shifted = (boxes[None] + size * torch.linspace(-0.1, 0.1, 9)[:, None, None]).reshape(-1, 4)
        sample.proposals = InstanceData(
            bboxes=shifted.clamp(0, size), scores=torch.linspace(0.9, 0.1, len(shifted))
        )
    return sample


def _classes(model: Any) -> tuple[int, int]:
    """Classes that every head knows, at most three, and a label for the background."""
    parts = [part for _, part in dicts_in(model)]
    counts = [part.get(key) for part in parts for key in ("num_classes", "num_things_classes")]
    things = [part["num_things_classes"] for part in parts if part.get("num_things_classes")]
    known = [count for count in counts if isinstance(count, int) and count > 0]
    return min([3, *known]), things[0] if things else 0


def _loads_masks(cfg: Any) -> bool:
    """RTMDet, for one, would take masks that are there for those of RTMDet-Ins."""
    loaders = [
        part
        for _, part in dicts_in(cfg.get("train_dataloader"))
        if str(part.get("type")).startswith("Load") and "Annotations" in str(part.get("type"))
    ]
    panoptic = any(part["type"] == "LoadPanopticAnnotations" for part in loaders)
    return not loaders or panoptic or any(part.get("with_mask") for part in loaders)


def _semantic_scale(cfg: Any) -> float:
    """The scale to which the training pipeline brings semantic maps (HTC reads an eighth)."""
    for _, part in dicts_in(cfg.get("train_dataloader")):
        if part.get("type") == "SegRescale":
            return float(part.get("scale_factor", 1.0))
    return 1.0
