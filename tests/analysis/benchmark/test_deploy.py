"""deploy() in the benchmark: what it is applied to, and the parts of what it leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.models")
sys.path.insert(0, str(Path(__file__).parents[2] / "train"))
from mmengine.config import Config  # noqa: E402
from tiny_run import CONFIG  # noqa: E402

from mmdet_mobileformer import MobileFormer  # noqa: E402
from mmdet_mobileformer.analysis.benchmark import models, parts  # noqa: E402

RETINANET = "configs/retinanet_mobileformer_26m_fpn_1x_coco.py"
ROOT = Path(__file__).resolve().parents[3]


def test_of_our_detector() -> None:
    cfg = Config.fromstring(CONFIG, ".py")
    made = models.Network(models.build(cfg, "tiny").eval(), (64, 96), 1)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        scores, boxes = made(images)
        made.model, done = models.prepare(made.model, "deploy", compiled=False)
        found_scores, found_boxes = made(images)
        found = parts.breakdown(made.model, lambda: made(images), 1)
    assert done == "deploy()"
    # Of the folded head the last prediction alone.
    assert torch.allclose(found_scores[-1], scores[-1], atol=1e-3)
    assert torch.allclose(found_boxes[-1], boxes[-1], atol=1e-4)
    names = {"backbone: stem and first block", "backbone: Mobile with the bridges", "backbone: Former"}
    assert names | {"head 1/32: feature side", "head: prediction"} <= set(found)


def test_of_our_backbone_in_another_detector() -> None:
    cfg = models.load(str(ROOT / RETINANET))
    model, done = models.prepare(models.build(cfg, RETINANET), "deploy", compiled=False)
    assert done == "deploy(), Conv-BN folded"
    assert not any(isinstance(module, MobileFormer) for module in model.modules())
    made = models.Network(model, (64, 64), 1)
    made.learn_structure(torch.zeros(1, 3, 64, 64))
    with torch.inference_mode():
        assert len(made.boxes(made(torch.zeros(1, 3, 64, 64)))) == 1
