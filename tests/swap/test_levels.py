"""What backbones and necks give is found out by running them."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet.models")
from mmdet.utils import register_all_modules  # noqa: E402

from mmdet_mobileformer.swap.levels import (  # noqa: E402
    Levels,
    ProbeError,
    probe_backbone,
    probe_neck,
)


@pytest.fixture(autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=True)


@pytest.mark.parametrize(
    "config, channels, strides",
    [
        (dict(type="ResNet", depth=18), (64, 128, 256, 512), (4, 8, 16, 32)),
        (dict(type="ResNet", depth=18, out_indices=(3,)), (512,), (32,)),
        (
            dict(type="ResNet", depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
            (256, 512, 1024, 2048),
            (4, 8, 16, 16),
        ),
        (dict(type="MobileNetV2", out_indices=(4, 7)), (96, 1280), (16, 32)),
        # SyncBN, and an operator that only runs with values.
        (
            dict(
                type="ResNet",
                depth=50,
                norm_cfg=dict(type="SyncBN"),
                dcn=dict(type="DCNv2", deform_groups=1, fallback_on_stride=False),
                stage_with_dcn=(False, False, False, True),
            ),
            (256, 512, 1024, 2048),
            (4, 8, 16, 32),
        ),
        (dict(type="MobileFormer", arch="26m", out_indices=(1, 2)), (24, 64), (8, 16)),
    ],
)
def test_a_backbone_s_levels(
    config: dict[str, object], channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    config = dict(config, init_cfg=dict(type="Pretrained", checkpoint="nowhere://there"))
    assert probe_backbone(config) == Levels(channels, strides)
    assert config["init_cfg"] == dict(type="Pretrained", checkpoint="nowhere://there")


def test_the_branches_of_tridentnet_are_seen() -> None:
    trident = dict(
        type="TridentResNet",
        depth=50,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        trident_dilations=(1, 2, 3),
        num_branch=3,
        test_branch_idx=1,
    )
    assert probe_backbone(trident) == Levels((1024,), (16,), branches=3)


def test_what_cannot_run_says_why() -> None:
    with pytest.raises(ProbeError, match="Elsewhere is not in the mmdet::model registry"):
        probe_backbone(dict(type="Elsewhere"))
    with pytest.raises(ProbeError, match=r"gives no feature maps \(N, C, H, W\)"):
        probe_backbone(dict(type="GlobalAveragePooling"))


def test_a_neck_s_levels() -> None:
    levels = Levels((8, 16), (8, 16))
    fpn = dict(type="FPN", in_channels=[8, 16], out_channels=4, num_outs=3)
    assert probe_neck(fpn, levels) == Levels((4, 4, 4), (8, 16, 32))
    with pytest.raises(ProbeError):
        probe_neck(dict(fpn, in_channels=[8, 24]), levels)
