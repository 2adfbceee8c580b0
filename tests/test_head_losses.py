"""Tests of the losses of all blocks at once: mmdet's own are the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")

from mmdet.models.dense_heads import DETRHead, DINOHead
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_mobileformer.head import E2EMFHead
from mmdet_mobileformer.head_losses import losses_of_matches, match_blocks
from mmdet_mobileformer.train.denoising import denoising_matches
from mmdet_mobileformer.train.quality import VarifocalQualityLoss  # noqa: F401  (registers it)

CLASSES, QUERIES, BLOCKS = 3, 7, 4
LOSSES = {
    "softmax": None,
    "softmax, weighted background": dict(
        type="CrossEntropyLoss", bg_cls_weight=0.3, class_weight=2.0, loss_weight=2.0
    ),
    "focal": dict(type="FocalLoss", use_sigmoid=True, loss_weight=2.0),
    "quality": dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=2.0),
    "varifocal": dict(type="VarifocalQualityLoss", loss_weight=2.0),
}
FOCAL_COSTS = [
    dict(type="FocalLossCost", weight=2.0),
    dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
    dict(type="IoUCost", iou_mode="giou", weight=2.0),
]


def make_head(loss: str, **kwargs: Any) -> E2EMFHead:
    train = None if loss.startswith("softmax") else dict(
        assigner=dict(type="HungarianAssigner", match_costs=FOCAL_COSTS)
    )
    return E2EMFHead(
        CLASSES, in_channels=(8, 8, 8), embed_dims=16, num_queries=QUERIES, num_blocks=(1, 1, 1),
        query_ffn_dims=16, side_ffn_dims=16, loss_cls=LOSSES[loss], train_cfg=train, **kwargs,
    )


def make_batch(head: E2EMFHead, counts: list[int]) -> tuple[Tensor, Tensor, list[Any], list[Any]]:
    shapes = [(60, 80), (96, 64), (50, 50)]
    metas = [dict(img_shape=shape, img_path=f"{shape}.jpg") for shape in shapes[: len(counts)]]
    truth = []
    for count, (height, width) in zip(counts, shapes):
        size = torch.tensor([width, height, width, height])
        corner = torch.rand(count, 2) * 0.6
        extent = torch.rand(count, 2) * 0.3 + 0.05
        boxes = torch.cat((corner, corner + extent), dim=1) * size
        truth.append(InstanceData(bboxes=boxes, labels=torch.randint(0, CLASSES, (count,))))
    logits = torch.randn(BLOCKS, len(counts), QUERIES, head.cls_out_channels, requires_grad=True)
    boxes = (torch.rand(BLOCKS, len(counts), QUERIES, 4) * 0.6 + 0.2).requires_grad_()
    return logits, boxes, truth, metas


@pytest.mark.parametrize("sync", [False, True], ids=["", "sync"])
@pytest.mark.parametrize("counts", [[2, 5, 1], [0, 3], [9, 0, 2], [0, 0]], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_those_of_mmdet(loss: str, counts: list[int], sync: bool) -> None:
    torch.manual_seed(sum(counts))
    head = make_head(loss, sync_cls_avg_factor=sync)
    batch = make_batch(head, counts)
    results = []
    for function in (head.loss_by_feat, lambda *args: DETRHead.loss_by_feat(head, *args)):
        # With a synchronised factor mmdet's have a dimension.
        losses = {name: value.squeeze() for name, value in function(*batch).items()}
        gradients = torch.autograd.grad(sum(losses.values()), batch[:2])
        results.append((losses, gradients))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert set(ours) == set(theirs) and len(ours) == 3 * BLOCKS
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for one, other in zip(our_gradients, their_gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert sum(counts) == 0 or all(gradient.abs().sum() > 0 for gradient in our_gradients)


def test_each_block_matches_by_itself() -> None:
    torch.manual_seed(0)
    head = make_head("quality")
    logits, boxes, truth, metas = make_batch(head, [2, 0])
    with torch.no_grad():
        # In block k, queries k and k + 2 lie on the two boxes.
        size = torch.tensor([80.0, 60.0, 80.0, 60.0])
        goals = truth[0].bboxes
        centres = torch.cat(((goals[:, :2] + goals[:, 2:]) / 2, goals[:, 2:] - goals[:, :2]), dim=1)
        boxes.fill_(0.01)
        for block in range(BLOCKS):
            boxes[block, 0, [block, block + 2]] = centres / size
        pixels = torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1)
        matches = match_blocks(head, logits * 0, pixels * size, truth, metas)
    assert matches.images.tolist() == [0] * 2 * BLOCKS
    assert matches.blocks.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert matches.queries.tolist() == [0, 2, 1, 3, 2, 4, 3, 5]
    assert torch.equal(matches.boxes, goals.repeat(BLOCKS, 1))
    found = matches.labels < CLASSES
    assert found.sum() == 2 * BLOCKS and not found[:, 1].any()
    assert torch.equal(matches.labels[found], truth[0].labels.repeat(BLOCKS))


def test_other_assigners_take_mmdets_way() -> None:
    """One that assigns otherwise: the first queries take the boxes as they come."""
    from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner

    class InOrder(HungarianAssigner):
        def assign(self, pred_instances: Any, gt_instances: Any, **kwargs: Any) -> AssignResult:
            found = torch.zeros(len(pred_instances), dtype=torch.long)
            found[: len(gt_instances)] = torch.arange(len(gt_instances)) + 1
            return AssignResult(len(gt_instances), found, None, labels=found * 0)

    torch.manual_seed(0)
    head = make_head("quality")
    batch = make_batch(head, [2, 1])
    matched = head.loss_by_feat(*batch)
    head.assigner = InOrder(FOCAL_COSTS)
    ordered = head.loss_by_feat(*batch)
    assert set(ordered) == set(matched) and ordered["loss_bbox"] > matched["loss_bbox"]


@pytest.mark.parametrize("counts", [[2, 5, 1], [0, 3], [1]], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_denoising_queries_are_those_of_mmdet(loss: str, counts: list[int]) -> None:
    torch.manual_seed(sum(counts))
    head = make_head(loss)
    _, _, truth, metas = make_batch(head, counts)
    groups, each = 3, 2 * max(counts)
    dn_meta = dict(num_denoising_queries=groups * each, num_denoising_groups=groups)
    shape = (BLOCKS, len(counts), groups * each)
    logits = torch.randn(*shape, head.cls_out_channels, requires_grad=True)
    boxes = (torch.rand(*shape, 4) * 0.6 + 0.2).requires_grad_()

    class Theirs(DINOHead):
        """mmdet's losses with this head's."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            for name in ("loss_cls", "loss_bbox", "loss_iou", "num_classes", "cls_out_channels",
                         "bg_cls_weight", "sync_cls_avg_factor"):
                setattr(self, name, getattr(head, name))

    theirs = Theirs().loss_dn(logits, boxes, truth, metas, dn_meta)
    matches = denoising_matches(logits, truth, dn_meta, CLASSES)
    ours = losses_of_matches(head, logits, boxes, matches, metas, negative=matches.per_block)
    for name, values in zip(("loss_cls", "loss_bbox", "loss_iou"), theirs):
        found = [ours[f"d{block}.{name}"] for block in range(BLOCKS - 1)] + [ours[name]]
        for one, other in zip(found, values):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
    gradients = [
        torch.autograd.grad(sum(values), (logits, boxes))
        for values in (ours.values(), [value for values in theirs for value in values])
    ]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
