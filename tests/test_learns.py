"""It learns: from scratch, in a fixed number of steps, so that a slow machine says the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

from mmdet_mobileformer.models import config_path

#: The only object of each picture; its class is the picture's number.
BOXES = ([4.0, 8.0, 36.0, 40.0], [24.0, 16.0, 60.0, 60.0])
STEPS = 120


def pictures() -> dict[str, Any]:
    """A red and a green rectangle on grey."""
    images, samples = [], []
    for number, box in enumerate(BOXES):
        image = torch.full((3, 64, 64), 114, dtype=torch.uint8)
        left, top, right, bottom = map(int, box)
        image[number, top:bottom, left:right] = 250
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64), scale_factor=(1.0, 1.0)))
        labels = torch.tensor([number])
        sample.gt_instances = InstanceData(bboxes=torch.tensor([box]), labels=labels)
        images.append(image)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


@pytest.mark.slow
def test_the_best_query_finds_the_object_after_some_steps() -> None:
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(config_path("e2emf_26m_coco")).model
    cfg.bbox_head.num_classes = len(BOXES)
    cfg.backbone.pop("init_cfg", None)
    model = MODELS.build(cfg).train()
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=1.0))
    batch = pictures()

    def overlaps() -> list[float]:
        """IoU of the most certain detection with the object; 0 if its class is another one."""
        model.eval()
        with torch.no_grad():
            found = [sample.pred_instances for sample in model.test_step(copy.deepcopy(batch))]
        model.train()
        ious = [float(bbox_overlaps(f.bboxes[:1], torch.tensor([b]))) for f, b in zip(found, BOXES)]
        return [iou * (int(f.labels[0]) == n) for n, (f, iou) in enumerate(zip(found, ious))]

    assert min(overlaps()) < 0.3
    for _ in range(STEPS):
        model.train_step(copy.deepcopy(batch), wrapper)
    assert min(overlaps()) > 0.5
