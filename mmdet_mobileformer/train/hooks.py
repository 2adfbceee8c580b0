"""Hooks that every run of tools/train.py and tools/test.py gets."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce_params, is_distributed
from mmengine.hooks import CheckpointHook, EMAHook, Hook, SyncBuffersHook
from mmengine.registry import HOOKS

# Registered together: a config names them, and loading is guarded wherever mmdet is.
from . import assign, checkpoint_hook, finite, resume, safe_loading, sampling  # noqa: F401
from .memory import release_freed_memory


@HOOKS.register_module()
class SyncStatisticsHook(SyncBuffersHook):
    """SyncBuffersHook that also covers EMA's copy and checkpoints saved by iteration.

    Without it the ranks validate different BatchNorm statistics, and a checkpoint holds those of
    rank 0 alone, so testing it gives other numbers than validation did.
    """

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Average the buffers before CheckpointHook (lower priority) saves at this iteration."""
        savers = [h for h in runner.hooks if isinstance(h, CheckpointHook) and not h.by_epoch]
        if is_distributed() and any(
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
            for hook in savers
        ):
            all_reduce_params(runner.model.buffers(), op="mean")
            self._sync_ema(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Average the buffers at the end of every epoch."""
        super().after_train_epoch(runner)
        self._sync_ema(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Average the buffers before a validation that does not follow an epoch."""
        super().before_val_epoch(runner)
        self._sync_ema(runner)

    @staticmethod
    def _sync_ema(runner: Any) -> None:
        if is_distributed():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    all_reduce_params(hook.ema_model.buffers(), op="mean")


@HOOKS.register_module()
class NoCodeFromCheckpointHook(Hook):
    """Drop `meta['config']` of a checkpoint, which `Runner.resume` would execute as Python.

    mmengine only reads the GPU count of old runs from it, and writes no such key itself.
    """

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Called by mmengine between reading a checkpoint and using it."""
        meta = checkpoint.get("meta")
        if isinstance(meta, dict) and meta.pop("config", None) is not None:
            runner.logger.warning("the config inside the checkpoint is not executed")


@HOOKS.register_module()
class ReleaseMemoryHook(Hook):
    """Gives back, now and then, what :func:`~.memory.keep_freed_memory` let pile up.

    Between two releases the process keeps every page that a step or a validation touched once. Without
    releases the largest batches and the worst fragments of the whole run add up.

    Args:
        interval: Training steps between releases; each validation is followed by one too.
    """

    #: After the hooks that save, evaluate and log.
    priority = "VERY_LOW"

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Release at every interval."""
        if self.every_n_train_iters(runner, self.interval):
            release_freed_memory()

    def after_val(self, runner: Any) -> None:
        """Release what the validation took."""
        release_freed_memory()


@HOOKS.register_module()
class BoundHistoryHook(Hook):
    """Keeps the last values of what a training logs, in place of all of them.

    mmengine appends to an array per logged number and copies it anew at every step, so a training of
    days gets slower and larger; the log itself is in the work directory. Nothing is bounded where
    the log's settings (``log_processor``) ask for means over an epoch or over everything.

    Args:
        length: Steps that are kept at least; more where a mean is taken over more.
    """

    #: Before the hooks that log.
    priority = "VERY_HIGH"
    LENGTH = 1000

    def __init__(self, length: int | None = None) -> None:
        self.length: int | None = length or self.LENGTH

    def before_train(self, runner: Any) -> None:
        """Take the longest window of the log's settings into account."""
        processor = runner.log_processor
        windows = [processor.window_size, *(c.get("window_size") for c in processor.custom_cfg)]
        if self.length is None or any(isinstance(window, str) for window in windows):
            self.length = None
        else:
            self.length = max(self.length, *(window or 0 for window in windows))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Bound the histories that are there; those of a checkpoint come with their own bounds."""
        if self.length is None:
            return
        for name, history in runner.message_hub.log_scalars.items():
            if name.startswith("train/"):
                history.max_length = min(history.max_length, self.length)
