"""train/near_boxes.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from small_head import SMALL  # noqa: E402
from test_denoising import features, samples  # noqa: E402

from mmdet_mobileformer import E2EMFTrainingHead  # noqa: E402
from mmdet_mobileformer.train.near_boxes import (  # noqa: E402
    classes_of_near_boxes,
    losses_of_near_boxes,
)


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


def losses(boxes: torch.Tensor, some: list[Any], least: float = 0.5) -> dict[str, torch.Tensor]:
    head = E2EMFTrainingHead(near=least, **SMALL)
    metas = [sample.metainfo for sample in some]
    return losses_of_near_boxes(head, boxes, [s.gt_instances for s in some], metas, least)


def test_boxes_learn_the_object_that_they_overlap_most() -> None:
    """Two blocks, two images of 64 px, three queries; what is near is known by hand."""
    some = samples([[0.0, 0.0, 32.0, 32.0], [32.0, 32.0, 64.0, 64.0]], [])
    at = torch.tensor([0.25, 0.25, 0.5, 0.5])
    other = torch.tensor([0.75, 0.75, 0.4, 0.4])
    far = torch.tensor([0.75, 0.25, 0.1, 0.1])
    first = torch.stack((torch.stack((at, at, far)), torch.stack((at, at, at))))
    second = torch.stack((torch.stack((far, other, far)), torch.stack((far, far, far))))
    boxes = torch.stack((first, second)).requires_grad_()
    found = losses(boxes, some)
    # Three are near: two in the first block, exactly, and one in the second.
    assert found["d0.near_loss_bbox"] == 0 and abs(found["d0.near_loss_iou"]) < 1e-5
    # mmdet's weights of DETR: 5 and 2; an overlap of 0.64 inside the object is its GIoU, too.
    assert found["near_loss_bbox"].item() == pytest.approx(5 * 0.2 / 1.5, rel=1e-4)
    assert found["near_loss_iou"].item() == pytest.approx(2 * (1 - 0.64) / 1.5, rel=1e-4)
    found["near_loss_iou"].backward()  # type: ignore[no-untyped-call]
    assert boxes.grad is not None
    assert boxes.grad[1, 0, 1].abs().sum() > 0
    boxes.grad[1, 0, 1] = 0
    assert boxes.grad.abs().sum() == 0


@pytest.mark.parametrize("least", [0.1, 0.3])
def test_it_is_what_a_loop_over_the_boxes_gives(least: float) -> None:
    some = samples([[0.0, 0.0, 40.0, 40.0], [5.0, 9.0, 60.0, 50.0]], [[10.0, 10.0, 50.0, 60.0]])
    torch.manual_seed(0)
    boxes = torch.cat((torch.rand(3, 2, 9, 2), torch.rand(3, 2, 9, 2) * 0.5 + 0.3), dim=-1)
    sums = torch.zeros(3)
    count = 0
    for block, images in enumerate(boxes):
        for sample, queries in zip(some, images):
            for box in bbox_cxcywh_to_xyxy(queries) * 64:
                goals = sample.gt_instances.bboxes
                overlap, best = bbox_overlaps(box[None], goals)[0].max(dim=0)
                if overlap >= least:
                    count += 1
                    sums[block] += 2 * (1 - bbox_overlaps(box[None], goals[best][None], "giou").item())
    assert count > 3
    found = losses(boxes, some, least)
    ours = torch.stack([found[f"{k}near_loss_iou"] for k in ("d0.", "d1.", "")])
    torch.testing.assert_close(ours, sums / (count / 3), atol=1e-4, rtol=1e-4)


def test_no_box_is_near() -> None:
    boxes = torch.full((2, 2, 3, 4), 0.5, requires_grad=True)
    found = losses(boxes, samples([], []))
    assert set(found) == {f"{k}near_loss_{x}" for k in ("d0.", "") for x in ("bbox", "iou")}
    total = sum(found.values())
    total.backward()  # type: ignore[union-attr, no-untyped-call]
    assert total == 0 and boxes.grad is not None


def test_the_head_trains_with_it_and_predicts_without() -> None:
    torch.manual_seed(1)
    model = E2EMFTrainingHead(near=0.1, **SMALL)
    plain = E2EMFTrainingHead(**SMALL)
    plain.load_state_dict(model.state_dict())
    feats = features()
    some = samples([[4.0, 5.0, 30.0, 40.0]], [[10.0, 10.0, 50.0, 60.0]])
    found, without = model.loss(feats, some), plain.loss(feats, some)
    added = set(found) - set(without)
    assert {name.rpartition(".")[2] for name in added} == {"near_loss_bbox", "near_loss_iou"}
    assert sum(float(found[name]) for name in added) > 0
    for name, value in without.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("near", [0.0, 1.0, -1.0])
def test_near_is_an_overlap(near: float) -> None:
    with pytest.raises(ValueError, match="give an IoU between 0 and 1"):
        E2EMFTrainingHead(near=near, **SMALL)


QUALITY = dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=3.0)


def test_near_boxes_learn_their_overlap_as_quality() -> None:
    """One block, two images of 64 px, three queries: exact, far, and the only one at its object."""
    some = samples([[0.0, 0.0, 32.0, 32.0], [32.0, 32.0, 64.0, 64.0]], [])
    at, far = torch.tensor([0.25, 0.25, 0.5, 0.5]), torch.tensor([0.75, 0.25, 0.1, 0.1])
    # An overlap of 0.16: not near, but the best that there is.
    small = torch.tensor([0.75, 0.75, 0.2, 0.2])
    boxes = torch.stack((torch.stack((at, far, small)), torch.stack((at, far, small))))[None]
    head = E2EMFTrainingHead(near=0.5, near_classes=1, **{**SMALL, "loss_cls": QUALITY})
    logits = torch.zeros(1, 2, 3, head.num_classes, requires_grad=True)
    metas = [sample.metainfo for sample in some]
    found = classes_of_near_boxes(head, logits, boxes, [s.gt_instances for s in some], metas, 0.5)
    assert set(found) == {"d0.loss_cls"}
    # At a score of 0.5 a target of q costs |q - 0.5|^2 ln 2; all else are targets of 0.
    targets = torch.zeros(2, 3, head.num_classes)
    targets[0, 0, some[0].gt_instances.labels[0]] = 1.0
    targets[0, 2, some[0].gt_instances.labels[1]] = 0.16
    by_hand = 3 * ((targets - 0.5) ** 2 * math.log(2)).sum() / 2
    torch.testing.assert_close(found["d0.loss_cls"], by_hand, rtol=1e-4, atol=1e-4)
    found["d0.loss_cls"].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # Only what is better than its score is pushed up.
    assert (logits.grad[0] < 0).nonzero().tolist() == [[0, 0, int(some[0].gt_instances.labels[0])]]


def test_only_the_first_predictions_classes_are_one_to_many() -> None:
    torch.manual_seed(1)
    settings = {**SMALL, "loss_cls": QUALITY}
    model = E2EMFTrainingHead(near=0.1, near_classes=1, **settings)
    plain = E2EMFTrainingHead(near=0.1, **settings)
    plain.load_state_dict(model.state_dict())
    feats = features()
    for some in (samples([[4.0, 5.0, 30.0, 40.0]], [[10.0, 10.0, 50.0, 60.0]]), samples([], [])):
        found, without = model.loss(feats, some), plain.loss(feats, some)
        assert set(found) == set(without)
        changed = {name for name in found if not torch.allclose(found[name], without[name])}
        assert changed == ({"d0.loss_cls"} if len(some[0].gt_instances) else set())


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(near=0.4, near_classes=-1), "near_classes is -1"),
        (dict(near=0.4, near_classes=99), "near_classes is 99: give 0 to"),
        (dict(near_classes=1), "needs near"),
        (dict(near=0.4, near_classes=1, loss_cls=None), "needs near, and QualityFocalLoss"),
    ],
)
def test_near_classes_are_checked(settings: dict[str, Any], message: str) -> None:
    arguments = {**SMALL, "loss_cls": QUALITY, **settings}
    if arguments["loss_cls"] is None:
        arguments.pop("loss_cls")
    with pytest.raises(ValueError, match=message):
        E2EMFTrainingHead(**arguments)
