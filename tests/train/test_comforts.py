"""What docs/training_comforts.md promises: mmengine's comforts work with our loop, hooks and recipes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmengine.config import Config  # noqa: E402
from mmengine.evaluator import BaseMetric  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import METRICS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from small_set import config, make_set  # noqa: E402

import mmdet_mobileformer  # noqa: E402, F401  (registers)
from mmdet_mobileformer.models import config_path  # noqa: E402
from mmdet_mobileformer.train import minutes  # noqa: E402


@METRICS.register_module(force=True)
class GivenScores(BaseMetric):
    """Scores as they are given, one per validation."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return dict(score=self.scores.pop(0))


def small_config(tmp_path: Path, **changes: Any) -> Config:
    cfg = config(make_set(tmp_path / "data", train=4, val=1), tmp_path / "work")
    cfg.val_evaluator = dict(type="GivenScores", scores=[0.1, 0.3, 0.3, 0.2, 0.2, 0.2, 0.9])
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=7, val_interval=1)
    for key, value in changes.items():
        cfg[key] = value
    return cfg


@pytest.mark.parametrize("loop", ["EpochBasedTrainLoop", "MinutesTrainLoop"])
def test_early_stopping_ends_a_training_that_gains_no_more(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = dict(
        type="EarlyStoppingHook", monitor="score", rule="greater", patience=2, min_delta=0.001
    )
    changes: dict[str, Any] = dict(custom_hooks=[stop])
    if loop == "MinutesTrainLoop":
        seconds = iter(range(10**6))
        monkeypatch.setattr(minutes, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
        changes["train_cfg"] = dict(type=loop, minutes=60)
    runner = Runner.from_cfg(small_config(tmp_path, **changes))
    runner.train()
    # The best is the second; two more without a gain are waited for.
    assert runner.epoch == 4


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
    cfg = small_config(
        tmp_path,
        visualizer=dict(type="mmdet.DetLocalVisualizer", vis_backends=backends, name="board"),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1), checkpoint=None),
    )
    Runner.from_cfg(cfg).train()
    (file,) = (tmp_path / "work").rglob("events.out.tfevents*")
    events = EventAccumulator(str(file)).Reload()
    assert {"loss", "score"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("score")][:2] == pytest.approx([0.1, 0.3])
    assert all(math.isfinite(event.value) for event in events.Scalars("loss"))


@pytest.mark.parametrize("name", ["e2emf_96m_coco", "e2emf_96m_coco_fast", "e2emf_demo"])
@pytest.mark.parametrize("batch", [4, 64])
def test_the_learning_rate_is_scaled_with_the_batch(name: str, batch: int) -> None:
    cfg = Config.fromfile(config_path(name))
    assert cfg.auto_scale_lr.base_batch_size == 16
    model = torch.nn.ModuleDict(dict(backbone=torch.nn.Linear(2, 2), norm=torch.nn.BatchNorm1d(2)))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = [group["lr"] for group in wrapper.optimizer.param_groups]
    # Two processes.
    runner: Any = SimpleNamespace(
        _train_dataloader=dict(batch_size=batch // 2),
        world_size=2,
        logger=SimpleNamespace(info=print),
        param_schedulers=cfg.get("param_scheduler"),
    )
    Runner.scale_lr(runner, wrapper, dict(cfg.auto_scale_lr, enable=True))
    after = [group["lr"] for group in wrapper.optimizer.param_groups]
    assert after == pytest.approx([lr * batch / 16 for lr in before])


def test_the_clock_s_schedule_starts_from_the_scaled_rate(tmp_path: Path) -> None:
    cfg = small_config(tmp_path)
    cfg.optim_wrapper.optimizer.lr = 0.08
    cfg.train_cfg = dict(type="MinutesTrainLoop", minutes=0.001, warmup=0.0)
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=8)
    cfg.val_evaluator = dict(type="GivenScores", scores=[0.5] * 99)
    runner = Runner.from_cfg(cfg)
    runner.train()
    # Batches of two: a quarter.
    assert runner.optim_wrapper.param_groups[0]["initial_lr"] == pytest.approx(0.02)


def test_accumulation_is_one_larger_step(tmp_path: Path) -> None:
    MessageHub.get_current_instance()
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    results = []
    for counts, batches in ((1, [x]), (4, list(x.split(2)))):
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 1)
        wrapper = build_optim_wrapper(
            model,
            dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1), accumulative_counts=counts),
        )
        for batch in batches:
            wrapper.update_params(model(batch).square().mean())
        results.append(model.weight.detach())
    torch.testing.assert_close(results[0], results[1])
