"""train/auxiliary.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmdet_mobileformer.train import auxiliary  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "configs" / "e2emf_demo.py"


def demo_model() -> Any:
    """The demo's model, all of which learns from the first step, whatever earlier tests told of their training."""
    cfg = Config.fromfile(str(DEMO)).model
    assert cfg.pop("dense_first")
    return cfg


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
    cfg = demo_model()
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
    cfg = demo_model()
    cfg.aux_head = None
    model = MODELS.build(cfg)
    losses = model.loss(torch.randn(1, 3, 64, 64), [sample([[4.0, 5.0, 30.0, 40.0]])])
    assert "loss_cls" in losses and not any(name.startswith("aux.") for name in losses)


def test_it_teaches_the_maps_that_the_queries_read() -> None:
    register_all_modules(init_default_scope=True)
    model = MODELS.build(demo_model())
    maps: list[torch.Tensor] = []
    feats = model.extract_feat(torch.randn(1, 3, 64, 96))
    model.bbox_head(feats, maps=maps)
    assert [tuple(one.shape) for one in maps] == [(1, 128, 2, 3), (1, 128, 4, 6), (1, 128, 8, 12)]
    losses = model.loss(torch.randn(1, 3, 64, 64), [sample([[4.0, 5.0, 30.0, 40.0]])])
    sum(value for name, value in losses.items() if name.startswith("aux.")).backward()
    for scale in model.bbox_head.scales:
        assert scale.project.weight.grad.abs().sum() > 0


def test_a_neck_of_its_own_reads_the_backbone_s_features() -> None:
    register_all_modules(init_default_scope=True)
    cfg = demo_model()
    cfg.aux_neck = dict(type="MobileFormerFPN", arch="52m", out_channels=128, num_outs=3)
    model = MODELS.build(cfg)
    losses = model.loss(torch.randn(1, 3, 64, 64), [sample([[4.0, 5.0, 30.0, 40.0]])])
    sum(value for name, value in losses.items() if name.startswith("aux.")).backward()
    assert all(scale.project.weight.grad is None for scale in model.bbox_head.scales)
    assert model.backbone.tokens.grad is not None


@pytest.mark.parametrize(
    ("key", "value"), [("in_channels", 64), ("strides", (8, 16)), ("strides", (4, 8, 16))]
)
def test_a_dense_head_that_does_not_fit_the_maps_is_named(key: str, value: Any) -> None:
    register_all_modules(init_default_scope=True)
    cfg = demo_model()
    cfg.aux_head[key] = value
    with pytest.raises(ValueError, match=r"128 channels at strides \[8, 16, 32\], but has") as caught:
        MODELS.build(cfg)
    assert str(value if key == "in_channels" else list(value)) in str(caught.value)


def test_a_dense_head_with_anchors_reads_the_maps_too() -> None:
    register_all_modules(init_default_scope=True)
    cfg = demo_model()
    anchors = dict(type="AnchorGenerator", ratios=[1.0], scales=[4], strides=[8, 16, 32])
    cfg.aux_head = dict(
        type="ATSSHead", num_classes=6, in_channels=128, feat_channels=32, stacked_convs=1,
        anchor_generator=anchors,
        train_cfg=dict(assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1),
    )
    model = MODELS.build(cfg)
    losses = model.loss(torch.randn(1, 3, 64, 64), [sample([[4.0, 5.0, 30.0, 40.0]])])
    assert torch.isfinite(losses["aux.loss_bbox"]) and losses["aux.loss_bbox"] > 0
    cfg.aux_head.anchor_generator.strides = [16, 32, 64]
    with pytest.raises(ValueError, match=r"strides=\[16, 32, 64\]"):
        MODELS.build(cfg)


def test_maps_are_e2emf_s() -> None:
    register_all_modules(init_default_scope=True)
    cfg = demo_model()
    cfg.aux_head = dict(type="DETRHead", num_classes=6)
    with pytest.raises(ValueError, match="strides=None: change it, or give an aux_neck"):
        MODELS.build(cfg)
    cfg = demo_model()
    cfg.bbox_head = dict(cfg.aux_head, in_channels=1)
    with pytest.raises(ValueError, match="FCOSHead has no maps for an aux_head without an aux_neck"):
        MODELS.build(cfg)


def waiting_model(**kwargs: Any) -> Any:
    register_all_modules(init_default_scope=True)
    cfg = demo_model()
    return MODELS.build(dict(cfg, dense_first=0.5, **kwargs))


def tell(monkeypatch: pytest.MonkeyPatch, **info: float) -> None:
    """What the message hub of the running training says."""
    hub = SimpleNamespace(runtime_info=info, get_info=info.__getitem__)
    monkeypatch.setattr(
        auxiliary, "MessageHub", SimpleNamespace(get_current_instance=lambda: hub)
    )


@pytest.mark.parametrize(
    ("info", "share"),
    [
        ({}, 1.0),
        (dict(iter=3, max_iters=0), 1.0),
        (dict(iter=3, max_iters=12), 0.25),
        # The clock counts, not the estimate of steps.
        (dict(iter=3, max_iters=12, share_spent=0.75), 0.75),
    ],
)
def test_the_share_of_a_training_that_is_done(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, float], share: float
) -> None:
    tell(monkeypatch, **info)
    assert auxiliary.training_share() == share


def test_queries_wait_for_the_dense_head(monkeypatch: pytest.MonkeyPatch) -> None:
    model = waiting_model()
    images, boxes = torch.randn(1, 3, 64, 64), [sample([[4.0, 5.0, 30.0, 40.0]])]
    tell(monkeypatch, share_spent=0.49)
    losses = model.loss(images, boxes)
    assert set(losses) == {"aux.loss_cls", "aux.loss_bbox", "aux.loss_centerness"}
    sum(losses.values()).backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"backbone.tokens", "bbox_head.scales.2.blocks.0.mobile.pointwise.conv.weight"} <= got
    assert not any("former" in name for name in got if name.startswith("bbox_head"))
    assert not any(name.startswith("bbox_head.query_embedding") for name in got)
    tell(monkeypatch, share_spent=0.5)
    assert "loss_cls" in model.loss(images, boxes)


def test_the_maps_do_not_change_when_queries_join() -> None:
    model = waiting_model().eval()
    feats = model.extract_feat(torch.randn(2, 3, 64, 96))
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    maps: list[torch.Tensor] = []
    model.bbox_head(feats, mask, maps=maps)
    for with_queries, without in zip(maps, model.bbox_head.maps_without_queries(feats, mask)):
        torch.testing.assert_close(with_queries, without)


def test_queries_that_have_learned_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    model = waiting_model()
    tell(monkeypatch, iter=0, max_iters=10)
    assert model.queries_wait()
    torch.nn.init.normal_(model.bbox_head.scales[1].blocks[0].former_to_mobile.value.weight)
    assert not model.queries_wait()


def test_a_dense_head_with_a_neck_of_its_own_can_be_first(monkeypatch: pytest.MonkeyPatch) -> None:
    neck = dict(type="MobileFormerFPN", arch="52m", out_channels=128, num_outs=3)
    model = waiting_model(aux_neck=neck)
    tell(monkeypatch, iter=0, max_iters=10)
    losses = model.loss(torch.randn(1, 3, 64, 64), [sample([[4.0, 5.0, 30.0, 40.0]])])
    assert set(losses) == {"aux.loss_cls", "aux.loss_bbox", "aux.loss_centerness"}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_named(share: float) -> None:
    register_all_modules(init_default_scope=True)
    cfg = demo_model()
    with pytest.raises(ValueError, match=f"dense_first={share}: give a share"):
        MODELS.build(dict(cfg, dense_first=share))


def test_waiting_needs_a_dense_head_and_our_head() -> None:
    with pytest.raises(ValueError, match="dense_first needs an aux_head"):
        waiting_model(aux_head=None)
    cfg = demo_model()
    head = dict(type="FCOSHead", num_classes=6, in_channels=128)
    with pytest.raises(ValueError, match="dense_first is for E2EMFHead: .* with FCOSHead"):
        auxiliary._check_dense_first(0.5, MODELS.build(head), MODELS.build(cfg.aux_head))
