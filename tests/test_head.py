"""E2EMFHead and E2EMF."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from small_head import PLAIN  # noqa: E402
from torch import nn  # noqa: E402

from mmdet_mobileformer import E2EMF, E2EMFHead  # noqa: E402
from mmdet_mobileformer.head_reference import Queries  # noqa: E402
from mmdet_mobileformer.layers import MobileToFormer  # noqa: E402

CHANNELS = (24, 64, 96)  # of 26m at strides 8, 16, 32


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


def head(**changes: Any) -> E2EMFHead:
    return E2EMFHead(**{**PLAIN, **changes})


def features(batch: int = 2, size: int = 64, **kwargs: Any) -> list[torch.Tensor]:
    return [
        torch.randn(batch, c, size // s, size // s, **kwargs) for c, s in zip(CHANNELS, (8, 16, 32))
    ]


def sample(
    boxes: list[list[float]], valid: tuple[int, int] = (64, 64), padded: tuple[int, int] = (64, 64)
) -> DetDataSample:
    result = DetDataSample(
        metainfo=dict(img_shape=valid, batch_input_shape=padded, scale_factor=(1.0, 1.0))
    )
    labels = torch.arange(len(boxes)) % 3
    result.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=labels.long()
    )
    return result


BOXES = [[4.0, 5.0, 30.0, 40.0], [20.0, 10.0, 60.0, 62.0]]


def test_a_prediction_after_every_block_and_the_closing_layer() -> None:
    logits, boxes = head()(features())
    assert logits.shape == (5, 2, 12, 4)
    assert boxes.shape == (5, 2, 12, 4)
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert head(closing=False)(features())[0].shape[0] == 4


def test_the_paper_s_head_is_the_default() -> None:
    with torch.device("meta"):
        default = E2EMFHead(num_classes=80, arch="508m")
    kinds = [[type(b.mobile).__name__ for b in scale.blocks] for scale in default.scales]
    assert kinds == [["TransformerSide"] * 5, ["LiteSide"] * 2, ["LiteSide"] * 2]
    assert default.scale_strides == (32, 16, 8)
    assert default.query_embedding.weight.shape == (100, 256)
    block = default.scales[0].blocks[0]
    assert (block.mobile_to_former.num_heads, block.former.num_heads) == (8, 8)
    assert block.former.fc1.out_features == 1024
    assert all(b.adapt_position is not None for scale in default.scales for b in scale.blocks)


def test_parameters_of_e2e_mf_508m() -> None:
    """26.3 to 27.0 M; without the closing layer and what is dead then, 26.1 M (paper: 26.5 M)."""
    cfg = dict(
        type="E2EMF",
        backbone=dict(type="MobileFormer", arch="508m", out_indices=(1, 2, 3)),
        bbox_head=dict(type="E2EMFHead", arch="508m", num_classes=80),
    )
    with torch.device("meta"):
        full = MODELS.build(copy.deepcopy(cfg))
        cfg["bbox_head"]["closing"] = False
        without = MODELS.build(cfg)
    millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (full, without)]
    assert 26.3 <= millions[0] <= 27.0
    assert millions[1] == pytest.approx(26.1, abs=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(closing=False),
        dict(position="shared"),
        dict(position="shared", closing=False),
        dict(sides=("lite", "transformer", "lite")),
        dict(num_blocks=(1, 1, 2), expansion=2, num_queries=5),
    ],
    ids=str,
)
@pytest.mark.parametrize("boxes", [BOXES, []], ids=["boxes", "no boxes"])
def test_every_parameter_has_a_finite_gradient(changes: dict, boxes: list) -> None:
    model = head(**changes)
    losses = model.loss(features(), [sample(boxes), sample([])])
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    if not boxes:
        assert all(losses[key].item() == 0 for key in losses if "bbox" in key or "iou" in key)
        assert losses["loss_cls"].item() > 0


def test_one_scale_takes_one_feature() -> None:
    model = head(scales=(32,), num_blocks=(3,), sides=("transformer",))
    assert model(features()[2:])[0].shape[0] == 4


def test_losses_have_mmdet_s_names_and_the_no_object_weight() -> None:
    model = head()
    losses = model.loss(features(), [sample(BOXES), sample(BOXES)])
    names = {f"{p}loss_{k}" for p in ("", "d0.", "d1.", "d2.", "d3.") for k in ("cls", "bbox", "iou")}
    assert set(losses) == names
    assert model.bg_cls_weight == 0.1
    assert model.loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]


def test_the_configuration_is_not_changed_by_building() -> None:
    loss_cls = dict(type="CrossEntropyLoss", bg_cls_weight=0.2, loss_weight=1.0)
    test_cfg = dict(max_per_img=100)
    for _ in range(2):
        model = head(loss_cls=loss_cls, test_cfg=test_cfg)
    assert model.bg_cls_weight == 0.2
    assert loss_cls == dict(type="CrossEntropyLoss", bg_cls_weight=0.2, loss_weight=1.0)
    assert test_cfg == dict(max_per_img=100)


def test_the_classification_loss_is_cross_entropy_weighted_by_class() -> None:
    """Against the formula: the mean over queries with no-object at a tenth."""
    model = head().eval()
    samples = [sample(BOXES), sample([])]
    feats = features()
    logits, boxes = model(feats)
    gts = [s.gt_instances for s in samples]
    metas = [s.metainfo for s in samples]
    targets = model.get_targets(list(logits[-1]), list(boxes[-1]), gts, metas)
    labels = torch.cat(targets[0])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    expected = nn.functional.cross_entropy(logits[-1].flatten(0, 1), labels, weight)
    torch.testing.assert_close(model.loss(feats, samples)["loss_cls"], expected)


def test_predictions_are_at_most_as_many_as_queries_and_sorted() -> None:
    model = head(test_cfg=dict(max_per_img=100)).eval()
    (result, _) = model.predict(features(), [sample([]), sample([])])
    assert len(result) == 12
    assert (result.scores.diff() <= 0).all()
    assert result.bboxes.min() >= 0 and result.bboxes.max() <= 64


def test_queries_start_at_the_table_and_without_content() -> None:
    model = head().eval()
    seen = {}
    model.scales[0].blocks[0].register_forward_pre_hook(
        lambda module, args: seen.update(content=args[1], position=args[2])
    )
    model(features())
    assert (seen["content"] == 0).all()
    assert torch.equal(seen["position"][1], model.query_embedding.weight)


def test_position_adapts_by_g_of_the_content() -> None:
    model = head().eval()
    inputs, outputs = [], []

    def record(module: nn.Module, args: tuple, out: tuple) -> None:
        inputs.append(args)
        outputs.append(out)

    blocks = [block for scale in model.scales for block in scale.blocks]
    for block in blocks:
        block.register_forward_hook(record)
    model(features())
    for before, after, block in zip(inputs, outputs, blocks):
        following = block.adapt(before[2], after[1])
        torch.testing.assert_close(following, before[2] + block.adapt_position(after[1]))
    for before, after, following, block in zip(inputs, outputs, inputs[1:], blocks):
        assert following[1] is after[1]
        torch.testing.assert_close(following[2], block.adapt(before[2], after[1]))


def test_matrices_start_xavier_and_depthwise_kernels_keep_the_variance() -> None:
    model = E2EMFHead(num_classes=80, arch="508m")
    weight = model.scales[0].blocks[0].former.fc1.weight.detach()
    bound = (6 / (256 + 1024)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    up = model.scales[1].up_depthwise.requires_grad_(False)
    assert up(torch.randn(1, 256, 32, 32))[..., 1:-1, 1:-1].std() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(arch=None), "either arch or in_channels"),
        (dict(in_channels=[1, 2, 3]), "either arch or in_channels"),
        (dict(arch=None, in_channels=[1, 2]), "2 entries for 3 scales"),
        (dict(arch="27m"), "'27m' is unknown"),
        (dict(scales=(8, 16, 32)), "from coarse to fine"),
        (dict(scales=(64, 16, 8)), "stride 64"),
        (dict(num_blocks=(1, 1)), "one entry per scale"),
        (dict(num_blocks=(0, 1, 1)), "at least one block"),
        (dict(sides=("x", "lite", "lite")), "'x' is unknown"),
        (dict(position="learned"), "'adaptive' or 'shared'"),
        (dict(embed_dims=30), "multiple of 4 and of 4 heads"),
        (
            dict(loss_cls=dict(type="CrossEntropyLoss", bg_cls_weight=0.1, class_weight=[1.0] * 4)),
            "give one",
        ),
    ],
    ids=lambda v: str(v)[:30],
)
def test_bad_arguments_get_one_sentence(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        head(**changes)
    assert "\n" not in str(error.value)


def test_features_of_another_backbone_are_named() -> None:
    with pytest.raises(ValueError, match=r"features of \[24, 64, 95\] channels.*built for \[24, 64, 96\]"):
        head()([*features()[:2], torch.randn(2, 95, 2, 2)])


def detector(**changes: Any) -> E2EMF:
    cfg = dict(
        type="E2EMF",
        backbone=dict(type="MobileFormer", arch="26m", out_indices=(1, 2, 3)),
        bbox_head=dict(type="E2EMFHead", **{**PLAIN, **changes}),
        data_preprocessor=dict(type="DetDataPreprocessor", pad_size_divisor=1),
    )
    return MODELS.build(cfg)


@pytest.mark.parametrize("sides", [("transformer", "lite", "lite"), ("lite",) * 3])
def test_boxes_do_not_depend_on_neighbours_or_padding(sides: tuple) -> None:
    """Valid sizes that are multiples of 32; the leak of detr#191 and transformers#23218."""
    model = detector(sides=sides).eval().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            nn.init.uniform_(module.bias, -1, 1)
    small, large = torch.randn(1, 3, 64, 96).double(), torch.randn(1, 3, 128, 160).double()
    batch = torch.randn(2, 3, 128, 160).double()
    batch[:1, :, :64, :96], batch[1:] = small, large
    both = model(batch, [sample([], (64, 96), (128, 160)), sample([], (128, 160), (128, 160))])
    for index, alone in enumerate((small, large)):
        for together, expected in zip(both, model(alone)):
            torch.testing.assert_close(together[:, index], expected[:, 0], atol=1e-5, rtol=0)


def test_forward_on_meta_and_without_host_synchronisation() -> None:
    """A tensor made on the CPU by mistake, `.item()` or `.cpu()` fails here."""
    with torch.device("meta"):
        model = detector()
    images = torch.empty(2, 3, 65, 96, device="meta")
    for samples in (None, [sample([], (65, 90), (65, 96)), sample([], (33, 96), (65, 96))]):
        logits, boxes = model(images, samples)
        assert logits.is_meta and boxes.is_meta


def test_predictions_are_float32_under_autocast() -> None:
    model = detector().eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits, boxes = model(torch.randn(1, 3, 64, 64))
    assert logits.dtype == boxes.dtype == torch.float32


def test_loss_and_predict_agree_with_loss_and_with_predict() -> None:
    model = head().eval()
    feats, samples = features(), [sample(BOXES), sample([])]
    losses, results = model.loss_and_predict(feats, samples)
    torch.testing.assert_close(losses, model.loss(feats, samples))
    for ours, theirs in zip(results, model.predict(feats, samples, rescale=False)):
        torch.testing.assert_close(ours.bboxes, theirs.bboxes)


def test_the_head_works_on_another_backbone_and_in_mmdet_s_detector() -> None:
    model = MODELS.build(
        dict(
            type="SingleStageDetector",
            backbone=dict(type="ResNet", depth=18, out_indices=(1, 2, 3)),
            bbox_head=dict(
                type="E2EMFHead", **{**PLAIN, "arch": None, "in_channels": [128, 256, 512]}
            ),
        )
    )
    losses = model.loss(torch.randn(2, 3, 64, 64), [sample(BOXES), sample([])])
    assert all(torch.isfinite(value) for value in losses.values())


def test_reference_boxes_are_predicted_first_and_refined_from_block_to_block() -> None:
    model = head(reference_boxes=True, look="middle").eval()
    plain = head()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    assert model.state_dict().keys() == plain.state_dict().keys()
    feats = features(size=128)
    _, boxes = model(feats)
    torch.testing.assert_close(boxes, model.grid.sigmoid().expand_as(boxes))
    with torch.no_grad():
        model.fc_reg.bias.copy_(torch.tensor([0.1, 0.0, 0.0, 0.0]))
    _, boxes = model(feats)
    steps = boxes.logit()[..., 0] - model.grid[:, 0]
    count = torch.arange(1.0, len(boxes) + 1)[:, None, None]
    torch.testing.assert_close(steps, (0.1 * count).expand_as(steps), atol=1e-4, rtol=1e-4)
    # Untrained, a query already reads what lies at its box: change the features there.
    changed = [feat.clone() for feat in feats]
    for feat in changed:
        feat[:, :, : feat.shape[2] // 4, : feat.shape[3] // 4] += 3.0
    moved = (model(changed)[0] - model(feats)[0])[0].abs().mean(dim=(0, 2))
    assert moved[0] > 2 * moved[-1]


def test_sigmoid_losses_start_from_a_low_score() -> None:
    focal = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
    logits, _ = head(loss_cls=focal)(features())
    assert logits.shape[-1] == 3
    assert 0.002 < logits.sigmoid().mean() < 0.05


def test_queries_start_where_they_are_told_to() -> None:
    grid = E2EMFHead(num_classes=3, arch="26m", query_init="grid")
    table = grid.query_embedding.weight
    assert len({tuple(row) for row in table.detach().round(decimals=4).tolist()}) == 100
    # As the features' embedding: neighbours are more alike than opposite corners.
    assert (table[0] - table[1]).norm() < (table[0] - table[99]).norm()
    normal = E2EMFHead(num_classes=3, arch="26m").query_embedding.weight.detach()
    assert normal.std() == pytest.approx(1.0, abs=0.05)
    boxes = E2EMFHead(num_classes=3, arch="26m", reference_boxes="pyramid")
    assert boxes.query_embedding.weight.abs().sum() == 0 and boxes.reference_boxes is True
    assert len(boxes.grid[:, 2].unique()) == 3
    assert E2EMFHead(
        num_classes=3, arch="26m", reference_boxes=True, query_init="normal"
    ).query_embedding.weight.std() > 0.9


@pytest.mark.parametrize(("num_heads", "told"), [(4, 3), (8, 6)])
def test_heads_of_a_fixed_look_do_not_ask_what_is_there(num_heads: int, told: int) -> None:
    fixed = head(reference_boxes=True, look="fixed", num_heads=num_heads)
    assert fixed.state_dict().keys() == head(reference_boxes=True).state_dict().keys()
    bridges = [module for module in fixed.modules() if isinstance(module, MobileToFormer)]
    assert [bridge.told for bridge in bridges] == [told] * 5
    # Without boxes no head knows where to read.
    assert head(look="fixed").closing.told == 0


@pytest.mark.parametrize("aware", [False, True])
def test_an_aware_block_knows_the_size_of_the_box_it_changes(aware: bool) -> None:
    """With the same content, boxes of other sizes change otherwise; boxes at other places do not."""
    model = head(reference_boxes=True, size_aware=aware)
    nn.init.normal_(model.fc_reg.weight)
    before = torch.tensor([[[0.5, 0.5, 0.2, 0.3], [0.3, 0.6, 0.2, 0.3], [0.5, 0.5, 0.4, 0.3]]]).logit()
    content = torch.randn(1, 1, 32).expand(1, 3, 32)
    change = (model.refine_boxes(Queries(content, content, before)) - before)[0]
    torch.testing.assert_close(change[0], change[1])
    assert torch.allclose(change[0], change[2]) != aware


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(reference_boxes="tower"), "choose False, True, 'grid' or 'pyramid'"),
        (dict(look="fixed", reference_boxes=True, num_heads=2), "none of 2 heads to ask: set num_heads=8"),
        (dict(look="left"), "choose one of 'edges', 'middle', 'fixed'"),
        (dict(deltas="corners"), "choose one of 'logit', 'box'"),
        (dict(size_aware=True), "set reference_boxes too"),
        (dict(read_boxes=True), "read_boxes=True needs boxes to read at: set reference_boxes too"),
        (dict(query_init="ones"), "choose 'normal', 'zeros' or 'grid'"),
        (dict(query_init="zeros"), "makes all queries the same"),
        (dict(query_init="grid", reference_boxes=True), "leave query_init='grid' out"),
    ],
)
def test_impossible_starts_of_queries_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        E2EMFHead(num_classes=3, arch="26m", **arguments)
