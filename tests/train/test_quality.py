"""train/quality.py."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.models.losses import QualityFocalLoss  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from small_head import SMALL  # noqa: E402
from test_denoising import BOXES, features  # noqa: E402

from mmdet_mobileformer import E2EMFHead, E2EMFTrainingHead  # noqa: E402
from mmdet_mobileformer.train.quality import VarifocalQualityLoss  # noqa: E402


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


def test_the_loss_is_varifocal_s_formula() -> None:
    loss = MODELS.build(dict(type="VarifocalQualityLoss", loss_weight=2.0))
    assert isinstance(loss, QualityFocalLoss)
    pred = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    # The first found an object of class 1 with an IoU of 0.7, the second nothing.
    target = (torch.tensor([1, 2]), torch.tensor([0.7, 0.0]))
    weight = torch.tensor([1.0, 0.5])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def negative(x: float) -> float:
        return -0.75 * sigmoid(x) ** 2 * math.log(1 - sigmoid(x))

    p = sigmoid(-1.0)
    positive = -0.7 * (0.7 * math.log(p) + 0.3 * math.log(1 - p))
    expected = positive + negative(0.3) + 0.5 * (negative(2.0) + negative(0.5))
    got = loss(pred, target, weight, avg_factor=4.0)
    assert float(got) == pytest.approx(2.0 * expected / 4.0, rel=1e-5)
    assert loss(pred, target, reduction_override="none").shape == (2, 2)


@pytest.mark.parametrize("kind", ["VarifocalQualityLoss", "QualityFocalLoss"])
def test_the_score_learns_the_quality(kind: str) -> None:
    loss = MODELS.build(dict(type=kind, loss_weight=1.0))
    logit = torch.zeros(1, 1, requires_grad=True)
    optimizer = torch.optim.SGD([logit], lr=2.0)
    for _ in range(400):
        optimizer.zero_grad()
        loss(logit, (torch.tensor([0]), torch.tensor([0.6])), avg_factor=1.0).backward()
        optimizer.step()
    assert float(logit.detach().sigmoid()) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("training", [False, True])
def test_the_heads_of_the_detr_family_take_it(training: bool) -> None:
    register_all_modules(init_default_scope=True)
    costs = [
        dict(type="FocalLossCost", weight=2.0),
        dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
        dict(type="IoUCost", iou_mode="giou", weight=2.0),
    ]
    settings = {
        **SMALL,
        "loss_cls": dict(type="VarifocalQualityLoss", loss_weight=2.0),
        "train_cfg": dict(assigner=dict(type="HungarianAssigner", match_costs=costs)),
    }
    noise = dict(label_noise_scale=0.5, box_noise_scale=0.4, group_cfg=dict(num_dn_queries=12))
    head = E2EMFTrainingHead(denoising=noise, **settings) if training else E2EMFHead(**settings)
    assert isinstance(head.loss_cls, VarifocalQualityLoss)
    # Sigmoid losses have no class for the background.
    assert head.fc_cls.out_features == 3
    losses = head.loss(features(), BOXES)
    assert ("dn_loss_cls" in losses) == training
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert head.fc_cls.weight.grad.abs().sum() > 0
