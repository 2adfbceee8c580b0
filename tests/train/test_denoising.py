"""train/denoising.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from small_head import SMALL  # noqa: E402

from mmdet_mobileformer import E2EMFHead, E2EMFTrainingHead, head_losses  # noqa: E402
from mmdet_mobileformer.train import denoising as denoising_module  # noqa: E402

NOISE = dict(label_noise_scale=0.5, box_noise_scale=0.4, group_cfg=dict(num_dn_queries=12))


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


def features() -> list[torch.Tensor]:
    return [torch.randn(2, c, 64 // s, 64 // s) for c, s in ((24, 8), (64, 16), (96, 32))]


def samples(*boxes: list[list[float]]) -> list[DetDataSample]:
    result = []
    for some in boxes:
        sample = DetDataSample(
            metainfo=dict(img_shape=(64, 64), batch_input_shape=(64, 64), scale_factor=(1.0, 1.0))
        )
        labels = torch.arange(len(some)) % 3
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(some).reshape(-1, 4), labels=labels.long()
        )
        result.append(sample)
    return result


BOXES = samples([[4.0, 5.0, 30.0, 40.0], [1.0, 1.0, 9.0, 9.0]], [[10.0, 10.0, 50.0, 60.0]])


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("denoising", [None, NOISE])
def test_predictions_are_those_of_the_plain_head(groups: int, denoising: Any) -> None:
    torch.manual_seed(1)
    model = E2EMFTrainingHead(groups=groups, denoising=denoising, **SMALL).eval()
    plain = E2EMFHead(**SMALL).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("denoising")}
    plain.load_state_dict(state, strict=True)
    feats = features()
    extra, _ = model._extra_queries(BOXES)
    assert (extra is None) == (groups == 0 and denoising is None)
    outs = model(feats, None, extra)
    for ours, theirs in zip(outs, plain(feats)):
        # Neither the queries nor the features read the further ones.
        torch.testing.assert_close(ours[:, :, -9:], theirs, atol=2e-5, rtol=1e-4)
    loss = plain.loss(feats, BOXES)
    ours = model.loss(feats, BOXES)
    for name, value in loss.items():
        torch.testing.assert_close(ours[name], value, atol=2e-5, rtol=1e-4)


def test_further_queries_have_losses_of_their_own() -> None:
    losses = E2EMFTrainingHead(groups=2, denoising=NOISE, **SMALL).loss(features(), BOXES)
    for kind in ("loss_cls", "loss_bbox", "loss_iou"):
        assert {kind, f"d0.{kind}", f"dn_{kind}", f"d0.dn_{kind}", f"group_{kind}"} <= set(losses)
        assert f"group_d0.{kind}" in losses


def test_every_parameter_has_a_finite_gradient_also_without_boxes() -> None:
    model = E2EMFTrainingHead(groups=1, denoising=NOISE, **SMALL)
    # fc_reg starts at zero, which stops the gradient of the layers before it.
    torch.nn.init.normal_(model.fc_reg.weight)
    for some in (BOXES, samples([], [])):
        model.zero_grad()
        sum(model.loss(features(), some).values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("sync", [False, True])
def test_processes_with_and_without_boxes_average_as_often(
    sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one would wait for ever."""
    calls: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(tensor.numel())
        return tensor

    for module in (head_losses, denoising_module):
        monkeypatch.setattr(module, "reduce_mean", count)
    head = E2EMFTrainingHead(**SMALL, denoising=NOISE, sync_cls_avg_factor=sync)
    counts = []
    for boxes in (BOXES, samples([], [])):
        calls.clear()
        head.loss(features(), boxes)
        counts.append(len(calls))
    assert counts[0] == counts[1] == (4 if sync else 2)


def test_groups_start_from_other_boxes() -> None:
    model = E2EMFTrainingHead(groups=2, **SMALL)
    extra, _ = model._extra_queries(BOXES)
    assert extra is not None and extra.reference is not None
    first, second = extra.reference.sigmoid().split(9, dim=1)
    own = model.grid.sigmoid()
    assert not torch.allclose(first, second)
    assert ((first - own)[..., :2].abs() <= own[:, 2:] / 2 + 1e-3).all()


def test_without_reference_boxes_every_part_works_too() -> None:
    torch.manual_seed(2)
    small = {**SMALL, "reference_boxes": False}
    model = E2EMFTrainingHead(groups=2, denoising=NOISE, **small).eval()
    extra, meta = model._extra_queries(BOXES)
    assert extra is not None and extra.reference is None and meta is not None
    count = extra.content.shape[1]
    assert count == 2 * 9 + (count - 2 * 9) and extra.apart is not None
    # The groups are learned by themselves, and a denoising query knows where its object is.
    first, second = extra.position[0, -18:].split(9)
    assert not torch.allclose(first, second)
    assert extra.position[0, 0].abs().sum() > 0
    plain = E2EMFHead(**small).eval()
    training = ("denoising", "group_queries")
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith(training)}, strict=True
    )
    feats = features()
    for ours, theirs in zip(model(feats, None, extra), plain(feats)):
        torch.testing.assert_close(ours[:, :, -9:], theirs, atol=2e-5, rtol=1e-4)
    for some in (BOXES, samples([], [])):
        model.zero_grad()
        sum(model.loss(feats, some).values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    with pytest.raises(ValueError, match="groups is -1"):
        E2EMFTrainingHead(groups=-1, **small)


def test_the_paper_s_softmax_trains_denoising_queries_too() -> None:
    small = {**SMALL, "loss_cls": None}
    losses = E2EMFTrainingHead(groups=1, denoising=NOISE, **small).loss(features(), BOXES)
    assert {"dn_loss_cls", "group_loss_cls", "loss_cls"} <= set(losses)
    assert all(torch.isfinite(value) for value in losses.values())
