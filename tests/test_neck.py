"""MobileFormerFPN."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet_mobileformer import ARCHS, MobileFormer, MobileFormerFPN  # noqa: E402


def test_five_levels_with_p6_from_p5_s_output() -> None:
    backbone, neck = MobileFormer("26m", out_indices=(1, 2, 3)), MobileFormerFPN("26m")
    outs = neck(backbone(torch.randn(2, 3, 64, 96)))
    assert [tuple(o.shape[-2:]) for o in outs] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    assert {o.shape[1] for o in outs} == {256}
    torch.testing.assert_close(outs[3], neck.fpn_convs[3](outs[2]))


def test_a_wrong_pairing_is_one_sentence() -> None:
    backbone, neck = MobileFormer("52m"), MobileFormerFPN("26m")
    with pytest.raises(ValueError, match="the same arch and out_indices"):
        neck(backbone(torch.randn(2, 3, 64, 64)))


@pytest.mark.parametrize("indices", [(), (2, 1), (1, 1), (3, 4), (-1,)])
def test_wrong_indices_are_one_sentence(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="some of 0, 1, 2, 3 in rising order"):
        MobileFormerFPN("26m", out_indices=indices)


def test_its_channels_are_those_of_the_backbone() -> None:
    for arch in ARCHS:
        with torch.device("meta"):
            backbone, neck = MobileFormer(arch, out_indices=(0, 2)), MobileFormerFPN(arch, (0, 2))
        assert tuple(neck.in_channels) == backbone.out_channels
