"""The allow-list: real checkpoints of mmengine load safely, anything else is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet_mobileformer import stack


class Line(BaseModel):
    """A model of two parameters, enough for a Runner."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        y = self.linear(x)
        return {"loss": (y - x).square().mean()} if mode == "loss" else y


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint written by a real Runner after two epochs."""
    work_dir = tmp_path_factory.mktemp("runner")
    runner = Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[{"x": torch.ones(1) * i} for i in range(4)],
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=dict(type="MultiStepLR", milestones=[1]),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        experiment_name="test_stack",
        log_level="ERROR",
    )
    runner.train()
    return work_dir / "epoch_2.pth"


def test_runner_checkpoint_is_refused_without_and_loads_with_the_list(checkpoint: Path) -> None:
    if not hasattr(torch.serialization, "clear_safe_globals"):
        pytest.skip("this torch has no list of safe types")
    kept = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(pickle.UnpicklingError):
            torch.load(checkpoint, weights_only=True)
    finally:
        torch.serialization.add_safe_globals(kept)
    assert stack.allow_mmengine_checkpoints()
    loaded = torch.load(checkpoint, weights_only=True)
    assert loaded["meta"]["epoch"] == 2
    loss = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(loss, HistoryBuffer) and loss.data[0].shape == (4,)
    assert loss.mean() == loss.statistics("mean") and np.isfinite(loss.mean())


def test_calling_again_adds_nothing() -> None:
    stack.allow_mmengine_checkpoints()
    before = len(torch.serialization.get_safe_globals())
    stack.allow_mmengine_checkpoints()
    assert len(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.5),
        np.float32(0.5),
        np.int64(-3),
        np.bool_(True),
        np.str_("a"),
        np.datetime64(7, "s"),
    ],
)
def test_numpy_scalars(value: Any, tmp_path: Path) -> None:
    stack.allow_mmengine_checkpoints()
    torch.save({"value": value, "array": np.array([value, value])}, tmp_path / "a.pth")
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)
    assert loaded["value"] == value and type(loaded["value"]) is type(value)
    assert loaded["array"].tolist() == [value, value]


@pytest.mark.parametrize("spelling", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_spellings_of_numpy(spelling: str, tmp_path: Path) -> None:
    stack.allow_mmengine_checkpoints()
    file = tmp_path / "a.pth"
    torch.save([np.float64(0.5), np.arange(3)], file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    for old in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        data = data.replace(b"c" + old + b"\n", b"c" + spelling.encode() + b"\n")
    file.write_bytes(data)
    assert f"c{spelling}\n".encode() in data
    scalar, array = torch.load(file, weights_only=True)
    assert scalar == 0.5 and array.tolist() == [0, 1, 2]


class Command:
    """Pickles into a call of the given function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        lambda mark: Command(os.mkdir, mark),
        lambda mark: Command(eval, f"__import__('os').mkdir({mark!r})"),
        lambda mark: Command(getattr, HistoryBuffer, "__init__"),
        lambda mark: Command(getattr, HistoryBuffer, "register_statistics"),
        lambda mark: Command(getattr, np.ndarray, "mean"),
        lambda mark: Command(getattr, HistoryBuffer.mean, "__globals__"),
        lambda mark: np.array([Command(os.mkdir, mark)], dtype=object),
    ],
    ids=["mkdir", "eval", "init", "register", "ndarray", "globals", "object-array"],
)
def test_malicious_files_are_refused(call: Any, tmp_path: Path) -> None:
    stack.allow_mmengine_checkpoints()
    mark = tmp_path / "mark"
    torch.save({"state_dict": {}, "bad": call(str(mark))}, tmp_path / "bad.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "bad.pth", weights_only=True)
    assert not mark.exists()


def test_old_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.serialization, "add_safe_globals")
    assert stack.allow_mmengine_checkpoints() is False


def test_installed_versions() -> None:
    versions = stack.installed_versions()
    torch_found = versions["torch"]
    assert torch_found is not None and torch.__version__.startswith(torch_found.version[:4])
    assert set(versions) == set(stack.DISTRIBUTIONS)


def test_absent_packages_and_other_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "onedl-mmcv":
            return "2.3.1"
        raise stack.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(stack.metadata, "version", version)
    versions = stack.installed_versions()
    assert versions["mmcv"] == ("onedl-mmcv", "2.3.1") and versions["mmdet"] is None
