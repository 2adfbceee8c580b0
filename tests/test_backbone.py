"""MobileFormer as a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmdet_mobileformer import ARCHS, MobileFormer, convert_official_state_dict
from mmdet_mobileformer.golden import official_state_dict

SMALL = "26m"


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [(64, 96), (33, 65)])
def test_outputs_have_the_promised_shapes_and_every_parameter_a_gradient(
    arch: str, size: tuple[int, int]
) -> None:
    model = MobileFormer(arch)
    outs = model(torch.randn(2, 3, *size))
    assert model.out_strides == (4, 8, 16, 32)
    for out, channels, stride in zip(outs, model.out_channels, model.out_strides):
        assert out.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert torch.isfinite(out).all()
    sum(out.pow(2).mean() for out in outs).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_registry_builds_it_and_nothing_is_called_num_classes() -> None:
    model = MODELS.build(dict(type="MobileFormer", arch=SMALL, out_indices=(1, 2, 3)))
    assert isinstance(model, MobileFormer)
    assert model.out_channels == (24, 64, 96)
    # mmdet's NumClassCheckHook takes any module with this attribute for a head.
    assert not any(hasattr(module, "num_classes") for module in model.modules())


def test_blocks_after_the_last_output_are_not_built() -> None:
    model = MobileFormer(SMALL, out_indices=(0, 1))
    assert len(model.blocks) == 4
    sum(out.sum() for out in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_smallest_input_is_32() -> None:
    model = MobileFormer(SMALL).eval()
    assert model(torch.randn(1, 3, 32, 32))[-1].shape == (1, 96, 1, 1)
    with pytest.raises(ValueError, match="at least 32x32 px, not 31x40"):
        model(torch.randn(1, 3, 31, 40))
    with pytest.raises(ValueError, match="batch 1, one cell"):
        model.train()(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(arch="99m"), "choose one of"),
        (dict(dynamic_relu="first"), "'spatial-aware' or 'first-token'"),
        (dict(out_indices=(4,)), "out_indices is"),
        (dict(out_indices=()), "out_indices is"),
        (dict(out_indices=(2, 1)), "in rising order"),
        (dict(frozen_stages=5), "frozen_stages is 5"),
        (dict(drop_path_rate=1.0), "probability in"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        MobileFormer(**arguments)
    assert "\n" not in str(error.value)


def test_frozen_stages_stay_frozen_in_training() -> None:
    model = MobileFormer(SMALL, frozen_stages=2).train()
    end = model.stage_ends[1]
    frozen = {id(p) for p in model.stem.parameters()} | {id(model.tokens)}
    frozen |= {id(p) for block in model.blocks[:end] for p in block.parameters()}
    assert all(p.requires_grad == (id(p) not in frozen) for p in model.parameters())
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(torch.randn(2, 3, 64, 64))
    after = model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {k for k in before if k.startswith("blocks.") and int(k.split(".")[1]) >= end}


def test_norm_eval_keeps_every_statistic() -> None:
    model = MobileFormer(SMALL, norm_eval=True).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    plain = MobileFormer(SMALL, drop_path_rate=0.2).train()
    saving = MobileFormer(SMALL, drop_path_rate=0.2, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for model in (plain, saving):
        torch.manual_seed(1)
        model(images)[-1].pow(2).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        if name.startswith("blocks.10.former_to_mobile") or a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(value, saving.state_dict()[key], msg=key)


def test_dynamic_relu_starts_as_relu() -> None:
    relu = MobileFormer(SMALL).blocks[1].mobile.relu1
    x, tokens = torch.randn(2, 36, 4, 4), torch.randn(2, 3, 128)
    mixture = torch.full((2, 3, 16), 1 / 3)
    for out in (relu(x, tokens), relu(x, tokens, mixture)):
        torch.testing.assert_close(out, x.clamp(min=0), atol=0.02, rtol=0.02)


def test_padding_changes_nothing_where_the_mask_says_so() -> None:
    """Valid sizes that are multiples of 32: any padding, any neighbour, the same features."""
    model = MobileFormer("52m").eval().double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-1, 1)
            nn.init.uniform_(norm.bias, -1, 1)
        elif isinstance(norm, nn.Linear):
            nn.init.normal_(norm.weight, 0, 0.1)
    small, large = torch.randn(3, 64, 96).double(), torch.randn(3, 128, 160).double()
    batch = torch.randn(2, 3, 128, 160).double()  # garbage in the padding
    batch[0, :, :64, :96], batch[1] = small, large
    mask = torch.ones(2, 128, 160, dtype=torch.bool)
    mask[0, :64, :96], mask[1] = False, False
    alone, other = model(small[None]), model(large[None])
    for both, one, two, stride in zip(model(batch, mask), alone, other, model.out_strides):
        torch.testing.assert_close(both[:1, :, : 64 // stride, : 96 // stride], one)
        torch.testing.assert_close(both[1:], two)


def test_a_mask_of_the_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"give \(1, 64, 64\)"):
        MobileFormer(SMALL)(torch.randn(1, 3, 64, 64), torch.zeros(1, 2, 2, dtype=torch.bool))


def test_forward_on_meta_and_without_host_synchronisation() -> None:
    """A tensor made on the CPU by mistake, `.item()` or `.cpu()` fails here."""
    with torch.device("meta"):
        model = MobileFormer(SMALL)
    images = torch.empty(2, 3, 65, 64, device="meta")
    for mask in (None, torch.zeros(2, 65, 64, dtype=torch.bool, device="meta")):
        assert all(out.is_meta for out in model(images, mask))


def save(tmp_path: Path, content: object) -> str:
    torch.save(content, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


@pytest.mark.parametrize("form", ["official", "ddp", "classifier", "backbone"])
def test_pretrained_takes_every_known_form(tmp_path: Path, form: str) -> None:
    official = official_state_dict(SMALL)
    ours = convert_official_state_dict(official, SMALL)
    content = {
        "official": official,
        "ddp": {"state_dict": {f"module.{k}": v for k, v in official.items()}, "epoch": 1},
        "classifier": {"state_dict": ours},
        "backbone": {k[9:]: v for k, v in ours.items() if k.startswith("backbone.")},
    }[form]
    file = save(tmp_path, content)
    model = MobileFormer(
        SMALL, out_indices=(0, 1), init_cfg=dict(type="Pretrained", checkpoint=file)
    )
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours[f"backbone.{key}"])


def test_pretrained_stops_at_the_first_thing_that_does_not_fit(tmp_path: Path) -> None:
    def load(content: object, arch: str = SMALL) -> None:
        init_cfg = dict(type="Pretrained", checkpoint=save(tmp_path, content))
        MobileFormer(arch, init_cfg=init_cfg).init_weights()

    ours = convert_official_state_dict(official_state_dict(SMALL), SMALL)
    lacking = {k: v for k, v in ours.items() if k != "backbone.stem.conv.weight"}
    with pytest.raises(ValueError, match=r"1 keys are missing \(stem.conv.weight\)"):
        load(lacking)
    with pytest.raises(ValueError, match="does not fit the backbone Mobile-Former-52m.*misshapen"):
        load(ours, "52m")
    with pytest.raises(ValueError, match=r"1 keys are unknown \(stem.extra\)"):
        load({**ours, "backbone.stem.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="holds no state dict"):
        load({"epoch": 3})
    with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist"):
        MobileFormer(SMALL, init_cfg=dict(type="Pretrained", checkpoint="nowhere.pth")).init_weights()


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("relu", ["spatial-aware", "first-token"])
def test_the_number_of_tokens_can_be_another(count: int, relu: str) -> None:
    model = MobileFormer("26m", dynamic_relu=relu, num_tokens=count)
    assert model.tokens.shape == (count, 128)
    features, tokens = model.forward_tokens(torch.randn(2, 3, 64, 64))
    assert tokens.shape == (2, count, 128) and all(torch.isfinite(x).all() for x in features)
    with pytest.raises(ValueError, match="num_tokens is 0"):
        MobileFormer("26m", num_tokens=0)
