"""Changes in the middle of a training that follow the clock, for MinutesTrainLoop (ours)."""

from __future__ import annotations

from typing import Any

from mmdet.engine.hooks import PipelineSwitchHook
from mmdet.registry import HOOKS

from .minutes import MinutesTrainLoop


@HOOKS.register_module()
class ClockPipelineSwitchHook(PipelineSwitchHook):
    """mmdet's PipelineSwitchHook at a share of the time: mosaic and mixup off towards the end.

    The switch happens between epochs: give the share to the loop's ``cut_at`` too.

    Args:
        switch_share: Share of the minutes after which the pipeline changes, between 0 and 1.
        switch_pipeline: The transforms from then on.

    Raises:
        ValueError: If the share is not between 0 and 1, or, when the training begins, if it does
            not follow the clock.
    """

    def __init__(self, switch_share: float, switch_pipeline: list[dict[str, Any]]) -> None:
        if not 0 < switch_share < 1:
            raise ValueError(
                f"ClockPipelineSwitchHook got switch_share={switch_share}: give a share of the time "
                "between 0 and 1"
            )
        super().__init__(switch_epoch=0, switch_pipeline=switch_pipeline)
        self.switch_share = switch_share

    def before_train(self, runner: Any) -> None:
        """Check the loop."""
        if not isinstance(runner.train_loop, MinutesTrainLoop):
            raise ValueError(
                "ClockPipelineSwitchHook needs train_cfg.type='MinutesTrainLoop': with another loop "
                "use mmdet's PipelineSwitchHook"
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Switch when the time has come."""
        due = runner.train_loop.share >= self.switch_share
        self.switch_epoch = runner.epoch if due else runner.epoch + 1
        super().before_train_epoch(runner)
