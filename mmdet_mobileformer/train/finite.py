"""Stop at the first NaN or infinity, before it reaches the weights, and say where it is from (ours)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_dist_info
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS
from torch import Tensor

from .amp import CpuAmpOptimWrapper
from .examine import examine, is_finite
from .replay import save_step
from .sampling import generator_states, restore_generators


class NonFiniteError(ValueError):
    """A loss or a gradient is NaN or infinite; the weights are still those before the step."""


@HOOKS.register_module()
class StopAtNonFiniteHook(Hook):
    """Ends a training at the first loss or gradient that is NaN or infinite.

    Both are looked at right before the optimizer steps, so the weights never take part. With a
    gradient scaler, which meets infinite gradients on purpose, the losses alone count. Several
    processes stop together, with the message of the one that has the bad batch.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._runner: Any = None
        self._batch: Any = None
        self._loss: Tensor | None = None
        self._generators: dict[str, Any] = {}
        self._in_step = self._stepped = False

    def before_train(self, runner: Any) -> None:
        """Watch the forward, the losses and the optimizers."""
        self._runner = runner
        model = _model(runner)
        model.data_preprocessor.register_forward_pre_hook(self._before_forward)
        parse = model.parse_losses

        def parse_losses(losses: Any) -> Any:
            total, log = parse(losses)
            self._loss = total.detach()
            return total, log

        model.parse_losses = parse_losses
        # A gradient scaler decides by itself what becomes of a step.
        if not hasattr(runner.optim_wrapper, "loss_scaler"):
            for optimizer in _optimizers(runner.optim_wrapper):
                optimizer.register_step_pre_hook(self._before_step)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch until it is known to be good."""
        self._batch, self._loss = data_batch, None
        self._in_step, self._stepped = True, False

    def _before_forward(self, *_: Any) -> None:
        if self._in_step:
            self._generators = generator_states()

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._in_step:
            self._stepped = True
            self._check(_gradients(optimizer))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the loss where the optimizer did not step, because it accumulates or scales."""
        if self._in_step and not self._stepped:
            self._check([])
        self._batch, self._in_step = None, False

    def _check(self, gradients: list[Tensor]) -> None:
        loss = [] if self._loss is None else [self._loss]
        bad = not is_finite(loss + gradients)
        if get_dist_info()[1] > 1:
            flag = torch.tensor(float(bad), device=loss[0].device if loss else "cpu")
            all_reduce(flag, op="max")
            bad = bool(flag)
        if bad:
            self._in_step = False
            self._stop()

    def _stop(self) -> None:
        """Raise, with what this process or, of several, the guilty one found."""
        runner = self._runner
        found = self._describe()
        if get_dist_info()[1] > 1:
            found = "; ".join(text for text in all_gather_object(found) if text)
        raise NonFiniteError(
            f"training stopped at iteration {runner.iter + 1}, in epoch {runner.epoch + 1}, before "
            "the weights changed: "
            + (found or "gradients were not finite, but are when the step is repeated")
        )

    def _describe(self) -> str:
        """What is found in this process's batch, and where it is saved; empty if that is finite."""
        runner, model = self._runner, _model(self._runner)
        restore_generators(self._generators)
        try:
            context = runner.optim_wrapper.optim_context(model)
            losses, where = finding = examine(model, self._batch, context)
        except Exception as error:  # the run ends with what is known, not with this
            text = f"the step fails when it is repeated ({type(error).__name__}: {error})"
            where, losses = " ".join(text.split()), {}
        else:
            if where is None:
                return ""
            where = f"{finding.bad_losses() or 'the losses are finite'}; first: {where}"
        images = image_files(self._batch)
        rest = f" and {len(images) - 8} more" if len(images) > 8 else ""
        text = f"{where}; images {', '.join(images[:8])}{rest}"
        return f"{text}; {self._save(losses, where, images)}"

    def _save(self, losses: dict[str, float], where: str, images: list[str]) -> str:
        """Write the step; returns how to repeat it, or why it could not be written."""
        runner = self._runner
        rank, world_size = get_dist_info()
        name = f"nonfinite_iter_{runner.iter + 1}{f'_rank_{rank}' if world_size > 1 else ''}.pth"
        file = Path(runner.work_dir) / name
        info = dict(iteration=runner.iter + 1, epoch=runner.epoch + 1, losses=losses, where=where)
        info.update(images=images, autocast=_autocast(runner.optim_wrapper))
        try:
            save_step(file, _model(runner), self._batch, self._generators, **info)
        except OSError as error:
            return f"the batch could not be saved ({error})"
        config = Path(runner.work_dir) / os.path.basename(runner.cfg.filename or "CONFIG")
        return f"to repeat it: python tools/replay_batch.py {config} {file}"


def image_files(batch: Any) -> list[str]:
    """The image files that the data samples of a batch name."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [file for item in batch for file in image_files(item)]
    file = getattr(batch, "img_path", None)
    return [str(file)] if file is not None else []


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    groups = optimizer.param_groups
    return [p.grad for group in groups for p in group["params"] if p.grad is not None]


def _optimizers(wrapper: Any) -> Iterator[torch.optim.Optimizer]:
    """That of an OptimWrapper, or those of an OptimWrapperDict."""
    if hasattr(wrapper, "optimizer"):
        yield wrapper.optimizer
    else:
        for item in wrapper.values():
            yield from _optimizers(item)


def _autocast(wrapper: Any) -> str | None:
    """The precision of the forward, for who repeats the step."""
    if isinstance(wrapper, CpuAmpOptimWrapper):
        return "bfloat16"
    if isinstance(wrapper, AmpOptimWrapper):
        return str(wrapper.cast_dtype or torch.float16).removeprefix("torch.")
    return None


def _model(runner: Any) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
