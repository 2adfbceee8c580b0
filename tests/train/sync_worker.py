"""Started by test_hooks.py under torchrun: two ranks, different data, BatchNorm and EMA.

Trains with the tools' own set-up and writes the buffers that each rank validated with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet_mobileformer.train import hooks  # noqa: F401
from mmdet_mobileformer.train.launch import adapt_to_processes, close_launcher, init_launcher


@MODELS.register_module()
class Norm(BaseModel):
    """BatchNorm and a layer; the loss depends on the data, which differ by rank."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.fc = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        y = self.fc(self.bn(x))
        return {"loss": y.square().mean() + y.mean()} if mode == "loss" else [y]


@METRICS.register_module()
class NoMetric:
    """An evaluator that only has to exist."""

    dataset_meta: Any = None
    prefix = None

    def process(self, *args: Any, **kwargs: Any) -> None: ...

    def evaluate(self, size: int) -> dict[str, float]:
        return {}


@HOOKS.register_module()
class Record(Hook):
    """Keep the statistics that validation sees, on every rank."""

    priority = "VERY_LOW"

    def before_val_epoch(self, runner: Any) -> None:
        bn = runner.model.module.bn
        runner.seen = torch.cat([bn.running_mean, bn.running_var]).clone()


def run(by_epoch: bool, out: Path) -> None:
    """Train once, saving and validating by epoch or by iteration."""
    data = [{"x": torch.tensor([float(i), i**2 / 9])} for i in range(16)]
    sampler = dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=False)
    loader = dict(
        dataset=data, batch_size=4, num_workers=0, collate_fn=dict(type="default_collate")
    )
    train_cfg = (
        dict(by_epoch=True, max_epochs=1, val_interval=1)
        if by_epoch
        else dict(by_epoch=False, max_iters=3, val_interval=3)
    )
    cfg = Config(
        dict(
            model=dict(type="Norm"),
            work_dir=str(out),
            train_dataloader=dict(sampler=sampler, **loader),
            val_dataloader=dict(sampler=dict(type="DefaultSampler", shuffle=False), **loader),
            train_cfg=train_cfg,
            val_cfg=dict(),
            val_evaluator=dict(type="NoMetric"),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            default_hooks=dict(
                checkpoint=dict(
                    type="CheckpointHook", interval=1 if by_epoch else 3, by_epoch=by_epoch
                )
            ),
            custom_hooks=[
                dict(type="EMAHook", momentum=0.1),
                dict(type="Record", priority="VERY_LOW"),
            ],
            experiment_name=f"sync_{out.name}",
            log_level="ERROR",
        )
    )
    adapt_to_processes(cfg, "pytorch")
    runner = Runner.from_cfg(cfg)
    runner.train()
    seen = all_gather(runner.seen)
    if runner.rank == 0:
        torch.save(seen, out / "seen.pth")


if __name__ == "__main__":
    init_launcher("pytorch")
    for by in ("epoch", "iter"):
        run(by == "epoch", Path(sys.argv[1]) / by)
    close_launcher()
