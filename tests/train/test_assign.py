"""Hungarian assignment: mmdet's for finite costs, and no failure for the others."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")

from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from tiny_run import CONFIG

import mmdet_mobileformer  # noqa: F401
from mmdet_mobileformer import matching
from mmdet_mobileformer.matching import finite_costs
from mmdet_mobileformer.train.assign import use_finite_assigner

NAN, INF = float("nan"), float("inf")
COSTS = [
    dict(type="ClassificationCost", weight=1.0),
    dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
    dict(type="IoUCost", iou_mode="giou", weight=2.0),
]


@pytest.fixture(autouse=True)
def scope(monkeypatch: pytest.MonkeyPatch) -> None:
    init_default_scope("mmdet")
    monkeypatch.setattr(matching, "_warned", False)


def instances(queries: int, boxes: int) -> tuple[InstanceData, InstanceData]:
    corner, extent = torch.rand(queries + boxes, 2) * 30, torch.rand(queries + boxes, 2) * 30 + 1
    both = torch.cat([corner, corner + extent], dim=1)
    predicted = InstanceData(bboxes=both[:queries], scores=torch.randn(queries, 4))
    return predicted, InstanceData(bboxes=both[queries:], labels=torch.randint(0, 3, (boxes,)))


def run(kind: str, predicted: InstanceData, truth: InstanceData) -> Any:
    assigner = TASK_UTILS.build(dict(type=kind, match_costs=COSTS))
    return assigner.assign(predicted, truth, dict(img_shape=(64, 64), img_path="a.jpg"))


@pytest.mark.parametrize("sizes", [(7, 3), (3, 7), (5, 5), (4, 0), (0, 2), (1, 1)], ids=str)
def test_the_same_as_mmdet_for_finite_costs(sizes: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            predicted, truth = instances(*sizes)
            ours = run("FiniteHungarianAssigner", predicted, truth)
            theirs = run("HungarianAssigner", predicted, truth)
            assert ours.num_gts == theirs.num_gts
            assert torch.equal(ours.gt_inds, theirs.gt_inds)
            assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["scores", "prediction", "box"])
def test_it_survives_with_one_warning(bad: float, where: str) -> None:
    predicted, truth = instances(6, 3)
    expected = run("HungarianAssigner", predicted, truth)
    (spared,) = (expected.gt_inds == 1).nonzero()[0]
    if where == "scores":
        predicted.scores[2] = bad
    elif where == "prediction":
        predicted.bboxes[(spared + 1) % 6] = bad
    else:
        truth.bboxes[2] = bad
    with pytest.raises(ValueError, match="invalid numeric"):
        run("HungarianAssigner", predicted, truth)
    with pytest.warns(UserWarning, match="for a.jpg are NaN or infinite") as caught:
        results = [run("FiniteHungarianAssigner", predicted, truth) for _ in range(3)]
    assert len(caught) == 1
    matched = results[0].gt_inds
    assert sorted(matched[matched > 0].tolist()) == [1, 2, 3], "each box has one query"
    for label, box in zip(results[0].labels.tolist(), matched.tolist()):
        assert label == (truth.labels[box - 1] if box else -1)


def test_what_is_finite_is_matched_as_before() -> None:
    """A box that nothing is known of takes what the others leave."""
    for _ in range(20):
        predicted, truth = instances(8, 3)
        alone = run("HungarianAssigner", predicted, truth[:2])
        truth.bboxes[2] = NAN
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run("FiniteHungarianAssigner", predicted, truth).gt_inds
        for box in (1, 2):
            assert torch.equal(found == box, alone.gt_inds == box)


def test_costs() -> None:
    cost = torch.tensor([[1.0, NAN], [INF, -3.0], [-INF, 2.0]])
    usable = finite_costs(cost)
    assert usable.dtype is torch.float64 and usable.isfinite().all()
    finite = cost.isfinite()
    assert torch.equal(usable[finite], cost[finite].double())
    assert (usable[~finite] > 2.0 + 2 * 5.0).all()
    usual = torch.ones(2, 2)
    assert finite_costs(usual) is usual
    assert torch.equal(finite_costs(torch.full((2, 2), NAN)), torch.ones(2, 2, dtype=torch.float64))
    assert finite_costs(torch.tensor([[3e38, -3e38, NAN]])).isfinite().all()


def test_configs_take_it_however_deep() -> None:
    model = dict(
        a=[dict(assigner=dict(type="HungarianAssigner"))], b=(dict(type="MaxIoUAssigner"),)
    )
    model["c"] = dict(assigner=dict(type="mmdet.HungarianAssigner", match_costs=[]))
    use_finite_assigner(model)
    assert model["a"][0]["assigner"]["type"] == "FiniteHungarianAssigner"
    assert model["c"] == dict(assigner=dict(type="FiniteHungarianAssigner", match_costs=[]))
    assert model["b"][0]["type"] == "MaxIoUAssigner"


#: Up to 1e18 pixels: from about 1e19 the area of a box does not fit float32.
BOXES = [
    [0, 0, 0, 0],
    [10, 10, 10, 30],
    [30, 30, 10, 10],
    [-5, -5, 5, 5],
    [63, 63, 64, 64],
    [500, 500, 600, 600],
    [0, 0, 1e-30, 1e-30],
    [0, 0, 1e6, 1e6],
    [-1e9, -1e9, 1e9, 1e9],
    [0, 0, 1e18, 1e18],
]


def test_huge_and_degenerate_boxes_give_finite_losses() -> None:
    cfg = Config.fromstring(CONFIG, ".py")
    use_finite_assigner(cfg.model)
    model = MODELS.build(cfg.model)
    shape = dict(img_shape=(64, 64), batch_input_shape=(64, 64), scale_factor=(1.0, 1.0))
    for boxes in [*([box] for box in BOXES), BOXES]:
        sample = DetDataSample(metainfo=shape)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
        model.zero_grad()
        losses = model.loss(torch.randn(1, 3, 64, 64), [sample])
        assert all(torch.isfinite(value) for value in losses.values()), boxes
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), (name, boxes)
