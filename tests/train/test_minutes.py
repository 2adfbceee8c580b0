"""train/minutes.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from torch.utils.data import DataLoader

from mmdet_mobileformer.train import minutes
from mmdet_mobileformer.train.minutes import MinutesTrainLoop


class Clock:
    """A clock that a step moves by ten seconds, as if steps took that long."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def loop(monkeypatch: pytest.MonkeyPatch, total: float, hub: str, **kwargs: Any) -> Any:
    clock = Clock()
    monkeypatch.setattr(minutes, "time", clock)
    steps: list[float] = []
    validated: list[int] = []
    group = {"lr": 0.5, "params": []}

    def train_step(data: Any, optim_wrapper: Any) -> dict[str, Any]:
        clock.now += 10
        steps.append(group["lr"])
        return {}

    def validate() -> None:
        clock.now += 1000
        validated.append(len(steps))

    runner = SimpleNamespace(
        model=SimpleNamespace(train=lambda: None, train_step=train_step),
        optim_wrapper=SimpleNamespace(param_groups=[group]),
        message_hub=MessageHub.get_instance(hub),
        call_hook=lambda name, **_: None,
        val_loop=SimpleNamespace(run=validate),
        visualizer=SimpleNamespace(),
        steps=steps,
        validated=validated,
    )
    data: Any = DataLoader(torch.zeros(4, 1))
    data.dataset.metainfo = {}
    result = MinutesTrainLoop(runner, data, total, **kwargs)
    return result


def test_the_time_ends_it_and_validation_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = loop(monkeypatch, 1.5, "test_minutes_end", warmup=0.0, val_interval=2)
    made.run()
    runner = made.runner
    # What the last step was told.
    told = runner.message_hub.get_info(MinutesTrainLoop.SHARE)
    assert told == pytest.approx(80 / 90)
    # 90 seconds are nine steps of ten: two epochs of four and a part of the third.
    assert len(runner.steps) == 9
    # After the second epoch by the interval, and at the end.
    assert runner.validated == [8, 9]
    assert runner.steps[0] == pytest.approx(0.5)
    assert runner.steps == sorted(runner.steps, reverse=True)
    assert 0 < runner.steps[-1] < 0.05
    assert made.epoch == made.max_epochs == 3


def test_a_loader_without_a_batch_is_refused() -> None:
    # Its epochs would take no time, and so never end.
    data: Any = DataLoader(torch.zeros(3, 1), batch_size=4, drop_last=True)
    data.dataset.metainfo = {}
    with pytest.raises(ValueError, match="fewer pictures than a batch"):
        MinutesTrainLoop(SimpleNamespace(visualizer=SimpleNamespace()), data, 1.0)


def test_a_resumed_run_has_the_rest_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    MessageHub.get_instance("test_minutes_rest").update_info(MinutesTrainLoop.SPENT, 1.0)
    made = loop(monkeypatch, 1.5, "test_minutes_rest", warmup=0.0)
    made.run()
    assert len(made.runner.steps) == 3
    assert made.runner.steps[0] == pytest.approx(0.5 * made.factor(2 / 3))


def test_the_learning_rate_rises_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made = loop(monkeypatch, 10, "test_minutes_warm", warmup=0.1)
    assert made.factor(0.0) == 0.0
    assert made.factor(0.05) == pytest.approx(0.5, abs=0.01)
    assert made.factor(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("bad", [dict(total=0), dict(total=1, warmup=1.0)])
def test_impossible_settings_are_refused(monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    with pytest.raises(ValueError, match="give more than 0"):
        loop(monkeypatch, hub="test_minutes_bad", **bad)


def test_it_validates_at_even_shares_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 steps of ten seconds; epochs of four steps, but for those that a point ends.
    made = loop(monkeypatch, 199 / 60, "test_minutes_points", val_points=4)
    made.run()
    assert made.runner.validated == [5, 10, 15, 20]
    assert len(made.runner.steps) == 20
    scalars = made.runner.message_hub.log_scalars
    assert scalars["val/minutes"].current() == pytest.approx(200 / 60)
    assert scalars["val/iterations"].current() == 20


def test_an_epoch_ends_where_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = loop(monkeypatch, 119 / 60, "test_minutes_cut", cut_at=[0.5], val_interval=100)
    begins: list[float] = []
    made.runner.call_hook = lambda name, **_: (
        begins.append(made.share) if name == "before_train_epoch" else None
    )
    made.run()
    # Twelve steps: an epoch of four, one of two up to the half, one of four, and the rest.
    assert begins == pytest.approx([0, 40 / 119, 60 / 119, 100 / 119])


@pytest.mark.parametrize(
    ("bad", "sentence"), [(dict(val_points=0), "val_points=0"), (dict(cut_at=[1.0]), "cut_at")]
)
def test_impossible_points_are_refused(
    monkeypatch: pytest.MonkeyPatch, bad: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        loop(monkeypatch, 1, "test_minutes_bad", **bad)
