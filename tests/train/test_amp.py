"""--amp on a CPU is bfloat16 autocast with float32 weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmdet_mobileformer.train import amp


def wrapper(model: nn.Module, **kwargs: Any) -> amp.CpuAmpOptimWrapper:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cfg = dict(type="CpuAmpOptimWrapper", optimizer=optimizer, **kwargs)
    built = OPTIM_WRAPPERS.build(cfg)
    assert isinstance(built, amp.CpuAmpOptimWrapper)
    return built


def test_forward_is_bfloat16_and_weights_stay_float32() -> None:
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    wrapped = wrapper(model)
    x = torch.randn(3, 4)
    with wrapped.optim_context(model):
        y = model(x)
    assert y.dtype is torch.bfloat16 and model(x).dtype is torch.float32
    wrapped.update_params(y.float().square().mean())
    assert model.weight.dtype is torch.float32
    assert not torch.equal(model.weight, before)


def test_accumulation_steps_every_second_time() -> None:
    model = nn.Linear(4, 4)
    wrapped = wrapper(model, accumulative_counts=2)
    wrapped.initialize_count_status(model, 0, 4)
    before = model.weight.detach().clone()
    changed = []
    for _ in range(4):
        with wrapped.optim_context(model):
            loss = model(torch.ones(2, 4)).float().square().mean()
        wrapped.update_params(loss)
        changed.append(not torch.equal(model.weight, before))
        before = model.weight.detach().clone()
    assert changed == [False, True, False, True]


def test_state_of_a_gpu_run_is_taken() -> None:
    model = nn.Linear(2, 2)
    state = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.5)).state_dict()
    wrapped = wrapper(model)
    wrapped.load_state_dict({**state, "loss_scaler": {"scale": 65536.0}})
    assert wrapped.optimizer.param_groups[0]["lr"] == 0.5


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        wrapper(nn.Linear(2, 2), dtype="float16")


@pytest.mark.parametrize(
    ("device", "given", "flag", "expected"),
    [
        ("cpu", "OptimWrapper", True, dict(type="CpuAmpOptimWrapper", lr=1)),
        ("cpu", "AmpOptimWrapper", False, dict(type="CpuAmpOptimWrapper", lr=1)),
        ("cpu", "OptimWrapper", False, dict(type="OptimWrapper", lr=1)),
        ("cuda", "OptimWrapper", True, dict(type="AmpOptimWrapper", loss_scale="dynamic", lr=1)),
        ("cuda", "AmpOptimWrapper", False, dict(type="AmpOptimWrapper", lr=1)),
    ],
)
def test_apply_amp(
    device: str, given: str, flag: bool, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amp, "get_device", lambda: device)
    cfg = Config(dict(optim_wrapper=dict(type=given, lr=1)))
    amp.apply_amp(cfg, flag)
    assert cfg.optim_wrapper.to_dict() == expected


def test_amp_needs_an_optimizer() -> None:
    with pytest.raises(ValueError, match="optim_wrapper"):
        amp.apply_amp(Config(dict()), True)
