"""BatchNorm statistics of several ranks, and code hidden in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local
from torch import Tensor, nn

from mmdet_mobileformer.stack import allow_mmengine_checkpoints
from mmdet_mobileformer.train import hooks

WORKER = Path(__file__).with_name("sync_worker.py")


@pytest.mark.distributed
def test_ranks_validate_and_save_the_same_statistics(
    two_processes: Callable[..., None], tmp_path: Path
) -> None:
    two_processes(WORKER, tmp_path)
    allow_mmengine_checkpoints()
    for by, name in (("epoch", "epoch_1.pth"), ("iter", "iter_3.pth")):
        first, second = torch.load(tmp_path / by / "seen.pth", weights_only=True)
        assert torch.equal(first, second)
        assert not torch.equal(first, torch.tensor([0.0, 0, 1, 1])), "the statistics never moved"
        state = torch.load(tmp_path / by / name, weights_only=True)["state_dict"]
        assert torch.equal(torch.cat([state["bn.running_mean"], state["bn.running_var"]]), first)


class Line(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        return {"loss": self.fc(x).square().mean()}


def runner(work_dir: Path, epochs: int, **kwargs: Any) -> Runner:
    return Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[{"x": torch.ones(1)}] * 2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        experiment_name=f"hooks_{work_dir.name}_{epochs}_{len(kwargs)}",
        log_level="ERROR",
        **kwargs,
    )


@pytest.mark.parametrize("guarded", [False, True])
def test_config_in_a_checkpoint_is_not_executed(
    guarded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook alone: also mmengine's own loader, which leaves the config in, is put back."""
    allow_mmengine_checkpoints()
    monkeypatch.setitem(CheckpointLoader._schemes, "", load_from_local)
    runner(tmp_path, 1).train()
    file, mark = tmp_path / "epoch_1.pth", tmp_path / "mark"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["meta"]["config"] = f"x = __import__('os').mkdir({str(mark)!r})"
    torch.save(checkpoint, file)
    custom = [dict(type="NoCodeFromCheckpointHook")] if guarded else []
    resumed = runner(tmp_path, 2, custom_hooks=custom, load_from=str(file), resume=True)
    resumed.train()
    assert resumed.epoch == 2
    # The unguarded run shows that the danger is real, so that this test can fail.
    assert mark.exists() is not guarded


def logged(window_size: int = 50, *custom: dict[str, Any]) -> Any:
    """A runner that has logged 2,500 steps and 2,500 validation batches."""
    hub = MessageHub("history")
    for step in range(2500):
        hub.update_scalar("train/loss", float(step))
        hub.update_scalar("val/time", float(step))
    processor = SimpleNamespace(window_size=window_size, custom_cfg=list(custom))
    return SimpleNamespace(message_hub=hub, log_processor=processor)


@pytest.mark.parametrize(
    ("window_size", "custom", "kept"),
    [
        (50, [], 1000),
        (1200, [], 1200),
        (50, [dict(data_src="loss", window_size=1300)], 1300),
        (50, [dict(data_src="loss", method_name="max")], 1000),
        (50, [dict(data_src="loss", window_size="global")], 2501),
    ],
)
def test_the_last_logged_numbers_are_kept(
    window_size: int, custom: list[dict[str, Any]], kept: int
) -> None:
    runner = logged(window_size, *custom)
    hook = hooks.BoundHistoryHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    runner.message_hub.update_scalar("train/loss", 2500.0)
    values, counts = runner.message_hub.get_scalar("train/loss").data
    assert list(values) == list(range(2501 - kept, 2501)) and len(counts) == kept
    assert len(runner.message_hub.get_scalar("val/time").data[0]) == 2500
