"""Mixed precision on the CPU: bfloat16 autocast (mmengine's AmpOptimWrapper demands a GPU)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """OptimWrapper that runs the forward in bfloat16 autocast on the CPU.

    Weights, gradients and the optimizer's state stay float32. bfloat16 has float32's exponent
    range, so no loss is scaled.

    Args:
        dtype: 'bfloat16', torch.bfloat16 or None, which is the same; the CPU casts to no other.
        **kwargs: Those of mmengine's OptimWrapper.

    Raises:
        ValueError: for another dtype.
    """

    def __init__(self, dtype: str | torch.dtype | None = None, **kwargs: Any) -> None:
        if dtype not in (None, "bfloat16", torch.bfloat16):
            raise ValueError(
                f"mixed precision on the CPU is bfloat16, not {dtype}: drop optim_wrapper.dtype"
            )
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward, inside the wrapper's own gradient-sync context."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also take the state of a GPU run: its loss scaler has no use here."""
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "loss_scaler"})


def apply_amp(cfg: Any, enable: bool) -> None:
    """Set up `--amp`: AmpOptimWrapper on an accelerator, bfloat16 autocast on the CPU.

    A config that asks for AmpOptimWrapper itself is adapted to the CPU as well.

    Args:
        cfg: The config, changed in place.
        enable: Whether `--amp` was given.

    Raises:
        ValueError: if `--amp` is asked of a config without optim_wrapper.
    """
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        if enable:
            raise ValueError("--amp needs optim_wrapper in the config")
        return
    asked = str(wrapper.get("type", "")).endswith("AmpOptimWrapper")
    if not (enable or asked):
        return
    if get_device() != "cpu":
        if enable:
            wrapper["type"] = "AmpOptimWrapper"
            wrapper["loss_scale"] = "dynamic"
        return
    wrapper["type"] = "CpuAmpOptimWrapper"
    for key in ("loss_scale", "use_fsdp"):
        wrapper.pop(key, None)
    if enable:
        # float16 in the config is meant for GPUs; --amp on a CPU is bfloat16 by definition.
        wrapper.pop("dtype", None)
