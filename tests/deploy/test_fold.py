"""deploy/fold.py: the folded model computes what the plain one does."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmdet_mobileformer import ARCHS, MobileFormer, config_path
from mmdet_mobileformer.deploy.fold import deploy
from mmdet_mobileformer.kernels import kernels_available, why_no_kernels
from mmdet_mobileformer.kernels.build import SWITCH

TOLERANCE = 1e-4
#: With and without the compiled kernels.
WAYS = (
    False,
    pytest.param(True, marks=pytest.mark.skipif(not kernels_available(), reason=str(why_no_kernels()))),
)
SMALL_HEAD = dict(
    num_classes=7, num_queries=20, embed_dims=64, num_heads=4, query_ffn_dims=96, side_ffn_dims=80,
    num_blocks=(2, 1, 2),
)


def trained(model: nn.Module) -> nn.Module:
    """Weights as after training: statistics that matter, tokens and slopes that differ."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return model.eval()


def detector(**head: object) -> nn.Module:
    pytest.importorskip("mmdet.models")
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(config_path("e2emf_26m_coco"))
    cfg.model.bbox_head.update({**SMALL_HEAD, **head})
    return trained(MODELS.build(cfg.model))


def images(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two images, and a mask that pads both, each on other sides."""
    mask = torch.zeros(2, height, width, dtype=torch.bool)
    mask[0, height * 3 // 4 :] = True
    mask[1, height // 2 :] = True
    mask[1, :, width * 2 // 3 :] = True
    return torch.randn(2, 3, height, width), mask


def backbone_error(model: MobileFormer, folded: nn.Module, x: Tensor, mask: Tensor | None) -> float:
    """Largest error of valid features, in units of each map's standard deviation."""
    with torch.no_grad():
        pairs = list(zip(folded(x, mask), model(x, mask), model.out_strides))
    worst = 0.0
    for found, expected, stride in pairs:
        assert found.shape == expected.shape
        error = (found - expected).abs() / expected.std()
        if mask is not None:
            error = error.masked_fill(mask[:, None, ::stride, ::stride], 0.0)
        worst = max(worst, error.max().item())
    return worst


@pytest.mark.parametrize("kernels", WAYS)
@pytest.mark.parametrize("dynamic_relu", ["spatial-aware", "first-token"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_backbone_gives_the_same_features(arch: str, dynamic_relu: str, kernels: bool) -> None:
    model = trained(MobileFormer(arch, dynamic_relu))
    folded = deploy(model, kernels)
    # Odd sizes: windows of the pooled mixture overlap, maps end in the middle of a tile, and the last
    # valid cells see padding.
    x, mask = images(65, 101)
    assert backbone_error(model, folded, x, None) <= TOLERANCE
    assert backbone_error(model, folded, x, mask) <= TOLERANCE


@pytest.mark.parametrize("kernels", WAYS)
def test_wide_maps_and_single_rows(kernels: bool) -> None:
    model = trained(MobileFormer("26m"))
    folded = deploy(model, kernels)
    for size in ((33, 501), (250, 40), (32, 32)):
        assert backbone_error(model, folded, torch.randn(1, 3, *size), None) <= TOLERANCE


@pytest.mark.parametrize("kernels", WAYS)
def test_fewer_outputs(kernels: bool) -> None:
    for out_indices in ((0,), (1, 2)):
        model = trained(MobileFormer("52m", out_indices=out_indices))
        folded = deploy(model, kernels)
        assert backbone_error(model, folded, torch.randn(1, 3, 64, 64), None) <= TOLERANCE


@pytest.mark.parametrize("kernels", WAYS)
@pytest.mark.parametrize(
    "head",
    [
        {},
        dict(reference_boxes=True),
        dict(reference_boxes=True, look="middle", deltas="box"),
        dict(reference_boxes=True, look="fixed", deltas="box", size_aware=True),
        dict(reference_boxes=True, look="fixed", num_heads=16, rivals=True),
        dict(reference_boxes=True, deltas="box", rivals=True),
        dict(reference_boxes=True, look="fixed", deltas="box", rivals=True, read_boxes=True),
        dict(reference_boxes=True, read_boxes=True, closing=False, num_blocks=(1, 1, 2)),
        dict(closing=False, position="shared"),
        dict(scales=(32,), num_blocks=(2,), sides=("transformer",), in_channels=[96], arch=None),
        dict(sides=("lite", "transformer", "lite"), closing=False, reference_boxes=True),
    ],
    ids=["plain", "reference boxes", "middles, deltas of boxes", "fixed, aware of sizes", "narrow heads", "rivals",
         "boxes read", "boxes read, no closing", "no closing", "one scale", "other sides"],
)
def test_the_detector_predicts_the_same(head: dict, kernels: bool) -> None:
    model = detector(**head)
    if "scales" in head:
        model.backbone.out_indices = (3,)
        model.backbone.out_strides = (32,)
    folded = deploy(model, kernels)
    x, mask = images(97, 131)
    for padding in (None, mask):
        with torch.no_grad():
            logits, boxes = model.bbox_head(model.backbone(x, padding), padding)
            found_logits, found_boxes = folded.bbox_head(folded.backbone(x, padding), padding)
        assert found_logits.shape == (1, *logits.shape[1:]) and found_boxes.shape[0] == 1
        error = found_logits[-1].softmax(-1) - logits[-1].softmax(-1)
        assert error.abs().max() <= TOLERANCE
        assert (found_boxes[-1] - boxes[-1]).abs().max() <= TOLERANCE
        # The check means something only where the queries differ.
        assert boxes[-1].std(dim=1).max() > 0.01


def samples(*shapes: tuple[int, int]) -> list:
    from mmdet.structures import DetDataSample

    made = []
    height, width = (max(side) for side in zip(*shapes))
    for shape in shapes:
        sample = DetDataSample()
        sample.set_metainfo(
            dict(img_shape=shape, ori_shape=shape, batch_input_shape=(height, width),
                 scale_factor=(1.0, 1.0))
        )
        made.append(sample)
    return made


@pytest.mark.parametrize("kernels", WAYS)
def test_predict_and_tensor_go_through_the_detector(kernels: bool) -> None:
    model = detector()
    folded = deploy(model, kernels)
    shapes = (64, 96), (50, 70)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(x, samples(*shapes), mode="predict")
        found = folded(x, samples(*shapes), mode="predict")
        assert folded(x, mode="tensor")[0].shape[0] == 1
    for ours, theirs in zip(found, expected):
        ours, theirs = ours.pred_instances, theirs.pred_instances
        torch.testing.assert_close(ours.scores, theirs.scores, atol=TOLERANCE, rtol=0)
        # Pixels of a 96 px image.
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, atol=96 * TOLERANCE, rtol=0)


def test_the_given_model_stays_as_it_is_and_the_copy_takes_no_checkpoint() -> None:
    model = detector()
    before = copy.deepcopy(model.state_dict())
    folded = deploy(model)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="load the checkpoint into the plain model"):
        folded.load_state_dict(before)


def test_double_precision_needs_no_kernels() -> None:
    model = trained(MobileFormer("26m")).double()
    folded = deploy(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert backbone_error(model, folded, x, None) <= 1e-12
    with pytest.raises(ValueError, match="float32 on the CPU"):
        deploy(model, kernels=True)


def test_other_models_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="folds an E2EMF or a MobileFormer, not a Linear"):
        deploy(nn.Linear(2, 2))


def test_the_switch_keeps_the_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    reason = why_no_kernels.__wrapped__()
    assert reason is not None and SWITCH in reason


def test_without_a_compiler_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdet_mobileformer.kernels import build

    def fail() -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(build, "_build", fail)
    monkeypatch.delenv(SWITCH, raising=False)
    with pytest.warns(RuntimeWarning, match="no compiler"):
        assert "torch's operators are used" in str(why_no_kernels.__wrapped__())


@pytest.mark.parametrize("kernels", WAYS)
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_torch_compile_takes_it_whole(backend: str, kernels: bool) -> None:
    """Without graph breaks; aot_eager traces everything and generates no code."""
    folded = deploy(trained(MobileFormer("26m", out_indices=(0, 1))), kernels)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = folded(x)
        found = torch.compile(folded, fullgraph=True, backend=backend)(x)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
