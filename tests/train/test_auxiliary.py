"""train/auxiliary.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "configs" / "e2emf_demo.py"


def sample(boxes: list[list[float]]) -> DetDataSample:
    shape = (64, 64)
    result = DetDataSample(
        metainfo=dict(
            img_shape=shape, batch_input_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0)
        )
    )
    result.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long)
    )
    return result


def test_the_dense_head_trains_and_inference_does_not_know_it() -> None:
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(str(DEMO)).model
    model = MODELS.build(cfg)
    images = torch.randn(2, 3, 64, 64)
    for boxes in ([[4.0, 5.0, 30.0, 40.0]], []):
        losses = model.loss(images, [sample(boxes), sample([])])
        assert {"loss_cls", "aux.loss_cls", "aux.loss_bbox", "aux.loss_centerness"} <= set(losses)
        model.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name

    plain = {k: v for k, v in cfg.items() if not k.startswith("aux_")} | dict(type="E2EMF")
    alone = MODELS.build(plain)
    alone.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("aux_")}, strict=True
    )
    model.eval()
    alone.eval()
    for ours, theirs in zip(model(images), alone(images)):
        torch.testing.assert_close(ours, theirs)


def test_the_dense_head_can_be_left_out() -> None:
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(str(DEMO)).model
    cfg.aux_head = None
    model = MODELS.build(cfg)
    losses = model.loss(torch.randn(1, 3, 64, 64), [sample([[4.0, 5.0, 30.0, 40.0]])])
    assert "loss_cls" in losses and not any(name.startswith("aux.") for name in losses)
    cfg = Config.fromfile(str(DEMO)).model
    cfg.aux_neck = None
    with pytest.raises(ValueError, match="aux_head without an aux_neck"):
        MODELS.build(cfg)
