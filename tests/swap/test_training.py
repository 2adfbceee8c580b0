"""One swapped detector of each kind trains on the embedded data set, polygons included."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmengine.runner import Runner  # noqa: E402
from shapes_run import on_shapes  # noqa: E402

from mmdet_mobileformer.data.shapes import make_shapes  # noqa: E402
from mmdet_mobileformer.swap import swap_backbone  # noqa: E402
from mmdet_mobileformer.swap.config_file import find_base  # noqa: E402

STEPS = 2

KINDS = {
    # name: base, strides of the backbone's maps, a loss that only this kind has
    "four levels, boxes and masks": (
        "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        (4, 8, 16, 32),
        "loss_mask",
    ),
    "three levels, boxes": ("yolox/yolox_tiny_8xb8-300e_coco.py", (8, 16, 32), "loss_obj"),
    "three levels, masks without RoIs": (
        "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
        (8, 16, 32),
        "loss_mask",
    ),
    "one level, a transformer": ("detr/detr_r18_8xb2-500e_coco.py", (32,), "d0.loss_iou"),
    "one level without neck": (
        "faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py",
        (16,),
        "loss_rpn_cls",
    ),
    "own selection, passed on by the neck": (
        "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
        (16, 32),
        "loss_bbox",
    ),
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, {"train": 2 * STEPS})
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains(kind: str, shapes: Path, tmp_path: Path) -> None:
    base, strides, loss = KINDS[kind]
    cfg = on_shapes(swap_backbone(find_base(f"mmdet::{base}"), "26m"), shapes, tmp_path, STEPS)
    runner = Runner.from_cfg(cfg)
    backbone = runner.model.backbone
    assert backbone.out_strides == strides
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    runner.train()

    history = {
        key: scalar.data[0]
        for key, scalar in runner.message_hub.log_scalars.items()
        if "loss" in key
    }
    assert f"train/{loss}" in history
    for key, values in history.items():
        assert len(values) == STEPS and all(math.isfinite(v) for v in values), key
    after = backbone.state_dict()
    still = [
        name
        for name, value in before.items()
        if value.is_floating_point() and torch.equal(value, after[name])
    ]
    assert not still, "every weight and statistic of the backbone changes"
    saved = torch.load(tmp_path / f"iter_{STEPS}.pth", weights_only=True)["state_dict"]
    torch.testing.assert_close(saved["backbone.stem.conv.weight"], after["stem.conv.weight"])
