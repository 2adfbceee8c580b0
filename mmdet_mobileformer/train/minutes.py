"""Training for a given time, whatever the machine's speed (ours)."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


@LOOPS.register_module()
class MinutesTrainLoop(EpochBasedTrainLoop):
    """Epochs until the minutes are used up; the learning rate follows the clock.

    It rises linearly, then falls to zero along a cosine, so a slow machine takes fewer steps of the
    same schedule. Validation is not counted. The last epoch may be a part of one; validation and
    the last checkpoint follow it.

    Args:
        runner: The runner.
        dataloader: As in mmengine's EpochBasedTrainLoop.
        minutes: Minutes of training.
        warmup: Share of them in which the learning rate rises.
        val_begin, val_interval: As in mmengine's EpochBasedTrainLoop.

    Raises:
        ValueError: If ``minutes`` is not positive, or ``warmup`` not in [0, 1).
    """

    #: Key of the message hub, which checkpoints carry: a resumed run has the rest of the time.
    SPENT = "minutes_spent"

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        minutes: float,
        warmup: float = 0.03,
        val_begin: int = 1,
        val_interval: int = 1,
    ) -> None:
        if minutes <= 0 or not 0 <= warmup < 1:
            raise ValueError(
                f"MinutesTrainLoop got minutes={minutes} and warmup={warmup}: give more than 0 "
                "minutes and a warmup from 0 to below 1"
            )
        # The number of epochs is estimated as soon as the speed is known.
        super().__init__(runner, dataloader, 1_000_000, val_begin, val_interval)
        self.minutes = minutes
        self.warmup = warmup

    def factor(self, share: float) -> float:
        """Factor of the learning rate when ``share`` of the time is spent."""
        rise = 1.0 if self.warmup == 0 else min(1.0, share / self.warmup)
        return rise * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def run_epoch(self) -> None:
        """Run an epoch, or what the time leaves of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        hub = self.runner.message_hub
        before = hub.get_info(self.SPENT) if self.SPENT in hub.runtime_info else 0.0
        start = time.monotonic()
        for index, batch in enumerate(self.dataloader):
            spent = before + (time.monotonic() - start) / 60
            share = self._agree(spent / self.minutes)
            if share >= 1:
                break
            for group in self._groups():
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.factor(share)
            self.run_iter(index, batch)
            self._estimate(share)
        spent = before + (time.monotonic() - start) / 60
        hub.update_info(self.SPENT, spent)
        if self._agree(spent / self.minutes) >= 1:
            self._max_epochs = self._epoch + 1
            self.stop_training = True
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.runner.optim_wrapper.param_groups
        return groups

    def _agree(self, share: float) -> float:
        """All ranks take the first one's clock: they must stop at the same step."""
        value = torch.tensor([share], dtype=torch.float64)
        broadcast(value)
        return float(value)

    def _estimate(self, share: float) -> None:
        """Tell the log how long it will take."""
        if share > 0.01:
            self._max_iters = max(self._iter + 1, int(self._iter / share))
            self._max_epochs = max(self._epoch + 2, math.ceil(self._max_iters / len(self.dataloader)))
