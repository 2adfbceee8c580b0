"""A swapped detector is really built, trained and run; what is wrong with it is said."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.models.dense_heads import RetinaHead  # noqa: E402
from mmengine.config import Config  # noqa: E402

from mmdet_mobileformer import MobileFormer  # noqa: E402
from mmdet_mobileformer.swap import swap_backbone  # noqa: E402
from mmdet_mobileformer.swap.check import (  # noqa: E402
    CheckError,
    NotOnCpuError,
    check_config,
    compare,
    count_config,
    small,
    without_checkpoints,
)
from mmdet_mobileformer.swap.config_file import find_base, read_base  # noqa: E402


def shipped(name: str) -> Config:
    return read_base(str(find_base(f"mmdet::{name}")))


@pytest.fixture(autouse=True)
def _one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is not tried again on larger images."""
    monkeypatch.setattr("mmdet_mobileformer.swap.check.SIDES", (128,))


@pytest.fixture(scope="module")
def base() -> Config:
    """A RetinaNet with thin heads."""
    cfg = shipped("retinanet/retinanet_r18_fpn_1x_coco.py")
    cfg.model.neck.out_channels = cfg.model.bbox_head.in_channels = 16
    cfg.model.bbox_head.feat_channels = 16
    cfg.model.bbox_head.num_classes = 3
    return cfg


@pytest.fixture()
def swapped(base: Config) -> Config:
    return swap_backbone(base, "26m")


def test_a_working_detector(swapped: Config) -> None:
    before = copy.deepcopy(swapped.to_dict())
    names = [n for n, _ in MobileFormer("26m", "first-token").named_parameters()]
    state, disabled = torch.get_rng_state(), logging.root.manager.disable
    result = check_config(swapped)
    assert result.size == 128 and 0 < result.loss < 10
    assert result.parameters == len(names) and result.without_gradient == ()
    assert result.predictions == 30, "scores of any size count"
    assert swapped.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.root.manager.disable == disabled
    assert "128x128 px: loss " in str(result) and f"{len(names)} of {len(names)}" in str(result)
    assert compare(swapped, swapped).status == "works"


def test_a_wrong_neck_is_said(swapped: Config) -> None:
    swapped.model.neck.in_channels = [12, 24, 64, 97]
    with pytest.raises(CheckError, match="the loss fails: RuntimeError: Given groups=1, weight"):
        check_config(swapped)


@pytest.mark.parametrize(
    "training, message",
    [
        (True, "the loss fails: loss(_bbox)? is nan"),
        # NaN boxes do not survive mmdet's filters, so nothing is left.
        (False, "the prediction fails: nothing is predicted, although every score counts"),
    ],
)
def test_a_loss_or_prediction_that_is_not_finite(
    swapped: Config, monkeypatch: pytest.MonkeyPatch, training: bool, message: str
) -> None:
    original = RetinaHead.forward_single

    def broken(self: Any, x: torch.Tensor) -> Any:
        scores, boxes = original(self, x)
        return scores, boxes * float("nan") if self.training is training else boxes

    monkeypatch.setattr(RetinaHead, "forward_single", broken)
    with pytest.raises(CheckError, match=message):
        check_config(swapped)


def test_a_backbone_without_gradient(swapped: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MobileFormer.forward
    monkeypatch.setattr(
        MobileFormer,
        "forward",
        lambda self, x: tuple(m.detach() for m in original(self, x)),
    )
    with pytest.raises(CheckError, match="no parameter of the backbone gets a gradient"):
        check_config(swapped)


def test_an_optimizer_that_does_not_fit(swapped: Config) -> None:
    swapped.optim_wrapper = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-4),
        constructor="LearningRateDecayOptimizerConstructor",
        paramwise_cfg=dict(decay_rate=0.95, decay_type="layer_wise", num_layers=6),
    )
    with pytest.raises(CheckError, match="the optimizer cannot be built: NotImplementedError"):
        check_config(swapped)


def test_mixed_precision_is_left_out(swapped: Config) -> None:
    swapped.optim_wrapper = dict(
        type="AmpOptimWrapper",
        loss_scale="dynamic",
        dtype="bfloat16",
        optimizer=dict(type="SGD", lr=0.1),
    )
    assert check_config(swapped).predictions > 0


def test_what_has_no_cpu_version_is_named() -> None:
    cfg = swap_backbone(shipped("carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py"), "26m")
    with pytest.raises(NotOnCpuError, match="the loss fails on a CPU, since mmcv has no CPU ver"):
        check_config(cfg)


def test_a_failure_with_the_old_backbone_too(base: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of order")

    swapped = swap_backbone(base, "26m")
    wrong = copy.deepcopy(swapped)
    wrong.model.neck.in_channels = [1, 2, 3, 4]
    verdict = compare(base, wrong)
    assert verdict.status == "fails" and "the loss fails" in verdict.reason
    monkeypatch.setattr(RetinaHead, "predict", broken)
    verdict = compare(base, swapped)
    assert verdict.status == "fails before too"
    assert verdict.reason == "the prediction fails: RuntimeError: out of order"


def test_costs_before_and_after(base: Config, swapped: Config) -> None:
    before, after = count_config(base, (96, 130)), count_config(swapped, (96, 130))
    assert before.shape == after.shape == (96, 130)
    assert after.params["backbone"] == sum(p.numel() for p in MobileFormer("26m").parameters())
    assert before.params["bbox_head"] == after.params["bbox_head"]
    assert before.madds["bbox_head"] == after.madds["bbox_head"] > 0
    assert after.madds["backbone"] < before.madds["backbone"] / 5


def test_checkpoints_are_left_out_but_mobileformer_s(swapped: Config, tmp_path: Path) -> None:
    file = tmp_path / "nothing.pth"
    swapped.model.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(file))
    swapped.model.neck.init_cfg = dict(type="Pretrained", checkpoint="https://x/y.pth")
    model = without_checkpoints(swapped)
    assert model["backbone"]["init_cfg"]["checkpoint"] == str(file)
    assert model["neck"]["init_cfg"] is None
    with pytest.raises(CheckError, match=r"cannot be built: .*nothing\.pth"):
        check_config(swapped)


def test_a_teacher_is_found_in_mmdet() -> None:
    cfg = swap_backbone(shipped("ld/ld_r18-gflv1-r101_fpn_1x_coco.py"), "26m")
    model = without_checkpoints(cfg)
    assert model["teacher_ckpt"] is None and Path(model["teacher_config"]).is_file()


def test_limits() -> None:
    cfg = shipped("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    model = small(cfg)
    rcnn = model["train_cfg"]["rcnn"]
    assert rcnn["sampler"]["num"] == 16 and cfg.model.train_cfg.rcnn.sampler.num == 512
    assert model["test_cfg"]["rcnn"]["score_thr"] == 0.0
    assert model["train_cfg"]["rpn_proposal"]["max_per_img"] == 30
