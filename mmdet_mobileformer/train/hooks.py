"""Hooks that every run of tools/train.py and tools/test.py gets."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce_params, is_distributed
from mmengine.hooks import CheckpointHook, EMAHook, Hook, SyncBuffersHook
from mmengine.registry import HOOKS

# Registered together: a config names them, and loading is guarded wherever mmdet is.
from . import assign, checkpoint_hook, finite, resume, safe_loading, sampling  # noqa: F401


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
