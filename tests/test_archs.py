"""The table of models against the models."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmdet_mobileformer import ARCHS, MobileFormerClassifier
from mmdet_mobileformer.archs import get_arch


@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_are_the_official_ones(arch: str) -> None:
    with torch.device("meta"):
        model = MobileFormerClassifier(arch)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(millions, 3) == ARCHS[arch].params


@pytest.mark.parametrize("arch", ARCHS)
def test_multiply_adds_are_the_official_ones(arch: str) -> None:
    with torch.device("meta"):
        model = MobileFormerClassifier(arch).eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    # fvcore, which counted the official code, also counts some norms: up to 2 % more.
    assert counter.get_total_flops() / 2e6 == pytest.approx(ARCHS[arch].madds, rel=0.02)


def test_an_unknown_arch_is_named() -> None:
    with pytest.raises(ValueError, match=r"'507m' is unknown: choose one of 508m, 294m"):
        get_arch("507m")
