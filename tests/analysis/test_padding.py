"""analysis/padding.py: nothing leaks at multiples of 32, and a leak that is there is seen."""

from __future__ import annotations

import pytest
from torch import nn

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402

from mmdet_mobileformer.analysis.padding import EVEN_SIZES, padding_leaks, shift_statistics  # noqa: E402


def model() -> nn.Module:
    built: nn.Module = MODELS.build(
        dict(
            type="mmdet.E2EMF",
            backbone=dict(type="MobileFormer", arch="26m", out_indices=(1, 2, 3)),
            bbox_head=dict(
                type="E2EMFHead", num_classes=3, arch="26m", num_blocks=(1, 1, 1), num_queries=10,
                embed_dims=32, num_heads=4, query_ffn_dims=64, side_ffn_dims=64,
            ),
            data_preprocessor=dict(type="DetDataPreprocessor"),
        )
    )
    shift_statistics(built)
    return built.eval().double()


def test_nothing_leaks_at_multiples_of_32() -> None:
    for leak in padding_leaks(model(), EVEN_SIZES, (224, 320)):
        assert leak.scores < 1e-9 and leak.boxes < 1e-9, leak


def test_a_leak_is_seen() -> None:
    """A backbone without the mask reads the padding."""
    leaky = model()
    forward = leaky.backbone.forward
    leaky.backbone.forward = lambda x, mask=None: forward(x)  # type: ignore[method-assign, union-attr, operator]
    (leak,) = padding_leaks(leaky, [(64, 96)], (128, 160))
    assert leak.scores > 1e-6 or leak.boxes > 1e-6
