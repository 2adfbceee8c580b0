"""train/clock.py."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.train.clock import ClockPipelineSwitchHook  # noqa: E402
from mmdet_mobileformer.train.minutes import MinutesTrainLoop  # noqa: E402

PACK = [dict(type="mmdet.PackDetInputs")]


def runner(share: float, epoch: int, data_set: Any) -> Any:
    return SimpleNamespace(
        train_loop=SimpleNamespace(share=share),
        epoch=epoch,
        train_dataloader=SimpleNamespace(dataset=data_set),
        logger=logging.getLogger("test"),
    )


def test_the_pipeline_changes_once_when_the_share_is_reached() -> None:
    hook = ClockPipelineSwitchHook(0.8, PACK)
    data_set = SimpleNamespace(pipeline="mosaic")
    for epoch, share in enumerate((0.0, 0.5, 0.799)):
        hook.before_train_epoch(runner(share, epoch, data_set))
        assert data_set.pipeline == "mosaic"
    hook.before_train_epoch(runner(0.8, 3, data_set))
    changed: Any = data_set.pipeline
    assert [type(t).__name__ for t in changed.transforms] == ["PackDetInputs"]
    hook.before_train_epoch(runner(0.9, 4, data_set))
    assert data_set.pipeline is changed


def test_a_resumed_run_switches_at_once() -> None:
    data_set = SimpleNamespace(pipeline="mosaic")
    ClockPipelineSwitchHook(0.8, PACK).before_train_epoch(runner(0.95, 17, data_set))
    assert data_set.pipeline != "mosaic"


def test_what_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="switch_share=1.5"):
        ClockPipelineSwitchHook(1.5, PACK)
    hook = ClockPipelineSwitchHook(0.5, PACK)
    with pytest.raises(ValueError, match="needs train_cfg.type='MinutesTrainLoop'"):
        hook.before_train(SimpleNamespace(train_loop=object()))
    hook.before_train(SimpleNamespace(train_loop=MinutesTrainLoop.__new__(MinutesTrainLoop)))
