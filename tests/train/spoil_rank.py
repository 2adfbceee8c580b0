"""Imported by a config of test_distributed.py: the loss of the second process becomes infinite."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SpoilSecondRank(Hook):
    """At the second iteration, on rank 1 alone."""

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.rank == 1 and runner.iter == 1:
            runner.model.module.bbox_head.loss_cls.loss_weight = float("inf")
