"""The GPU check itself, run on the CPU with a small detector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")

from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmdet_mobileformer  # noqa: F401
from mmdet_mobileformer.train import smoke

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cfg() -> Any:
    init_default_scope("mmdet")
    return Config.fromfile(ROOT / "configs" / "e2emf_demo.py")


def test_same_device_has_no_difference(cfg: Any) -> None:
    assert smoke.forward_difference(cfg, "cpu", size=64) == 0


@pytest.mark.parametrize("amp", [False, True])
def test_steps_change_the_loss(cfg: Any, amp: bool) -> None:
    steps = smoke.train_steps(cfg, "cpu", amp, steps=2, size=64)
    assert len(steps.losses) == 2 and steps.losses[0] != steps.losses[1] and steps.seconds > 0


def test_a_loss_that_is_not_finite_is_found(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build = smoke.build_detector

    def broken(given: Any) -> Any:
        model = build(given)
        model.bbox_head.loss_bbox.loss_weight = float("inf")
        return model

    monkeypatch.setattr(smoke, "build_detector", broken)
    with pytest.raises(ValueError, match="finite"):
        smoke.train_steps(cfg, "cpu", False, steps=2, size=64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says that there is no GPU")
def test_without_a_gpu_it_says_so() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gpu_smoke.py")], capture_output=True, text=True
    )
    assert (
        run.returncode == 1 and run.stderr.count("\n") == 1 and "nothing was checked" in run.stderr
    )
