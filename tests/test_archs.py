"""The table of models against the models."""

from __future__ import annotations

import pytest
import torch

from mmdet_mobileformer import ARCHS, MobileFormerClassifier
from mmdet_mobileformer.archs import get_arch


@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_are_the_official_ones(arch: str) -> None:
    with torch.device("meta"):
        model = MobileFormerClassifier(arch)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(millions, 3) == ARCHS[arch].params


def test_an_unknown_arch_is_named() -> None:
    with pytest.raises(ValueError, match=r"'507m' is unknown: choose one of 508m, 294m"):
        get_arch("507m")
