"""A training of a toy model that uses everything a resumed run has to restore; runs in a second."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet_mobileformer.train import hooks as _hooks  # noqa: F401
from mmdet_mobileformer.train.guards import add_guards

_numbers = itertools.count()


class StoppedError(Exception):
    """Stands for whatever ends a run: unlike an exit it leaves the test alive."""


@DATASETS.register_module()
class NoisyNumbers:
    """Samples with noise from all three generators, as augmentations draw it."""

    metainfo = dict(classes=("a",))

    def __init__(self, size: int = 10) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = [random.random(), np.random.rand(), float(torch.rand(()))]
        return dict(x=torch.tensor([index / self.size, *noise]), index=torch.tensor(index))

    def get_data_info(self, index: int) -> dict[str, int]:
        return dict(width=1 + index % 3, height=2)


@MODELS.register_module()
class Wobbly(BaseModel):
    """Dropout, BatchNorm and noise in the forward; remembers the batches that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn, self.fc2 = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor, index: Tensor, mode: str = "tensor") -> Any:
        if mode != "loss":
            return [self.fc2(x.sum(0))]
        self.seen.append(x.flatten().tolist())
        y = nn.functional.dropout(self.bn(self.fc1(x)).relu(), 0.5, training=True)
        noise = random.random() + np.random.rand()
        return {"loss": (self.fc2(y) - noise).square().mean()}


@METRICS.register_module()
class Wandering:
    """A metric that ReduceOnPlateau and save_best react to; better, then worse."""

    dataset_meta: Any = None
    prefix = None

    def process(self, *args: Any, **kwargs: Any) -> None: ...

    def evaluate(self, size: int) -> dict[str, float]:
        torch.rand(3)  # a validation that draws must not change the training
        return {"acc": math.sin(MessageHub.get_current_instance().get_info("iter"))}


@HOOKS.register_module()
class StopAfter(Hook):
    """Ends the run after an iteration, when everything else of it is done, or in a validation."""

    priority = "LOWEST"

    def __init__(self, iteration: int, in_validation: bool = False) -> None:
        self.iteration, self.in_validation = iteration, in_validation

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration and not self.in_validation:
            raise StoppedError

    def before_val_epoch(self, runner: Any) -> None:
        if runner.iter == self.iteration and self.in_validation:
            raise StoppedError


def config(work_dir: Path, by_epoch: bool = True, workers: int = 0, **changes: Any) -> Config:
    """Three epochs of five iterations, or fifteen iterations, with a checkpoint at each."""
    sampler = dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True)
    cfg = Config(
        dict(
            model=dict(type="Wobbly"),
            work_dir=str(work_dir),
            train_dataloader=dict(
                dataset=dict(type="NoisyNumbers"),
                sampler=sampler,
                batch_size=2,
                num_workers=workers,
                persistent_workers=workers > 0,
                collate_fn=dict(type="default_collate"),
            ),
            train_cfg=(
                dict(by_epoch=True, max_epochs=3)
                if by_epoch
                else dict(type="IterBasedTrainLoop", max_iters=15)
            ),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1), clip_grad=dict(max_norm=1.0)),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=7),
                dict(type="MultiStepLR", by_epoch=by_epoch, milestones=[1, 2], gamma=0.5),
            ],
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False),
                logger=dict(type="LoggerHook", interval=1),
            ),
            custom_hooks=[dict(type="EMAHook", momentum=0.1)],
            randomness=dict(seed=7),
            experiment_name=f"exact_{work_dir.parent.name}_{work_dir.name}",
            log_level="ERROR",
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def add_validation(cfg: Config) -> Config:
    """Validate every epoch (or five iterations), with what reacts to the metric."""
    loader = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    loader["sampler"] = dict(type="DefaultSampler", shuffle=False)
    cfg.val_dataloader, cfg.val_cfg = loader, dict()
    cfg.val_evaluator = dict(type="Wandering")
    if not cfg.train_cfg.get("by_epoch"):
        cfg.train_cfg.val_interval = 5
    by_epoch = bool(cfg.train_cfg.get("by_epoch"))
    plateau = dict(type="ReduceOnPlateauLR", monitor="acc", rule="greater", patience=0, factor=0.5)
    cfg.param_scheduler.append(plateau)
    cfg.default_hooks.checkpoint.update(save_best="acc", by_epoch=by_epoch, interval=1)
    early = dict(type="EarlyStoppingHook", monitor="acc", rule="greater", patience=9)
    cfg.custom_hooks.append(early)
    return cfg


def train(
    cfg: Config, stop: int | None = None, resume: str | bool = False, in_validation: bool = False
) -> tuple[Runner | None, list[list[float]]]:
    """Train as tools/train.py does; returns the Runner (None if stopped) and the batches seen."""
    # mmengine keeps everything of a run under its name.
    cfg.experiment_name = f"{cfg.experiment_name}_{next(_numbers)}"
    cfg.resume = bool(resume)
    cfg.load_from = resume if isinstance(resume, str) else None
    if stop is not None:
        hook = dict(type="StopAfter", iteration=stop, in_validation=in_validation)
        cfg.custom_hooks.append(hook)
    add_guards(cfg)
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except StoppedError:
        return None, runner.model.seen
    return runner, runner.model.seen
