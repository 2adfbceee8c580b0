"""Training for a given time, whatever the machine's speed (ours)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
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
        val_points: Validate so often, at even shares of the time, in place of ``val_interval``.
            An epoch ends there, so that trainings of any speed are compared at the same minutes.
        cut_at: Further shares of the time at which an epoch ends, for hooks that change something
            between epochs.

    The minutes and the iterations that a validation had stand beside its metrics in the log.

    Raises:
        ValueError: If ``minutes`` or ``val_points`` is not positive, ``warmup`` not in [0, 1), one of
            ``cut_at`` not between 0 and 1, or if there is no batch.
    """

    #: Key of the message hub, which checkpoints carry: a resumed run has the rest of the time.
    SPENT = "minutes_spent"
    #: Another: the share of the time that is spent when a step begins.
    SHARE = "share_spent"

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        minutes: float,
        warmup: float = 0.03,
        val_begin: int = 1,
        val_interval: int = 1,
        val_points: int | None = None,
        cut_at: Sequence[float] = (),
    ) -> None:
        if minutes <= 0 or not 0 <= warmup < 1:
            raise ValueError(
                f"MinutesTrainLoop got minutes={minutes} and warmup={warmup}: give more than 0 "
                "minutes and a warmup from 0 to below 1"
            )
        if val_points is not None and val_points < 1:
            raise ValueError(f"MinutesTrainLoop got val_points={val_points}: give at least 1")
        if any(not 0 < share < 1 for share in cut_at):
            raise ValueError(f"MinutesTrainLoop got cut_at={tuple(cut_at)}: give shares of the time")
        # The number of epochs is estimated as soon as the speed is known.
        super().__init__(runner, dataloader, 1_000_000, val_begin, val_interval)
        if len(self.dataloader) == 0:
            raise ValueError(
                "the training set has fewer pictures than a batch, and drop_last leaves none: set a "
                "smaller train_dataloader.batch_size"
            )
        self.minutes = minutes
        self.warmup = warmup
        self.val_points = val_points
        self.cuts = sorted(cut_at)
        #: Validations that are done or passed.
        self._validated = 0

    @property
    def share(self) -> float:
        """Share of the time that is spent."""
        hub = self.runner.message_hub
        spent = hub.get_info(self.SPENT) if self.SPENT in hub.runtime_info else 0.0
        return float(spent / self.minutes)

    def factor(self, share: float) -> float:
        """Factor of the learning rate when ``share`` of the time is spent."""
        rise = 1.0 if self.warmup == 0 else min(1.0, share / self.warmup)
        return rise * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def run_epoch(self) -> None:
        """Run an epoch, or what the time leaves of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        hub = self.runner.message_hub
        begin = self._agree(self.share)
        before = self.share * self.minutes
        start = time.monotonic()
        for index, batch in enumerate(self.dataloader):
            spent = before + (time.monotonic() - start) / 60
            share = self._agree(spent / self.minutes)
            # No epoch without a step, be the loading of a batch as slow as it may.
            ends = share >= 1 or self._ends_epoch(begin, share)
            if ends and (index or (share >= 1 and self._iter)):
                break
            for group in self._groups():
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.factor(share)
            hub.update_info(self.SHARE, share)
            self.run_iter(index, batch)
            self._estimate(share)
        spent = before + (time.monotonic() - start) / 60
        hub.update_info(self.SPENT, spent)
        for name, value in (("minutes", spent), ("iterations", self._iter)):
            hub.update_scalar(f"val/{name}", value)
        if self._agree(spent / self.minutes) >= 1:
            self._max_epochs = self._epoch + 1
            self.stop_training = True
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _ends_epoch(self, begin: float, share: float) -> bool:
        """Whether an epoch that began at a share of the time ends at another."""
        return self._passed(begin) < self._passed(share) or any(
            begin < cut <= share for cut in self.cuts
        )

    def _passed(self, share: float) -> int:
        """Points of validation up to a share of the time."""
        return math.floor(share * (self.val_points or 1) + 1e-9)

    def _decide_current_val_interval(self) -> None:
        """mmengine asks before each validation: here it is due by the clock."""
        if self.val_points is None:
            super()._decide_current_val_interval()
            return
        passed = self._passed(min(self._agree(self.share), 1.0))
        # The last one, when the time is over, follows the last epoch in any case.
        self.val_interval = 1 if passed > self._validated else 10**9
        self._validated = passed

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
