"""What a backbone or a neck gives, found out by building it and running it once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from torch import Tensor

from .common import numbers, one_line

#: Side of the images that are passed through a backbone, in pixels: four cells at stride 32.
SIDE = 128
#: The same for necks: SSD's needs eight cells on its coarsest input.
NECK_SIDE = 512
#: Images: one alone would stop BatchNorm on pooled features.
BATCH = 2


class ProbeError(Exception):
    """A module that cannot be built or run here; the message says why."""


@dataclass(frozen=True)
class Levels:
    """Feature maps, in the order in which they are given.

    Attributes:
        channels: Channels of each map.
        strides: Pixels of the image per cell, of each map.
        branches: Maps per image and level; 3 in TridentNet, 1 everywhere else.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    branches: int = 1

    def __str__(self) -> str:
        return f"{numbers(self.channels)} channels at stride {numbers(self.strides)}"


def probe_backbone(config: Mapping[str, Any]) -> Levels:
    """The levels of a backbone, from a run on :data:`BATCH` images in training mode.

    Training mode, since TridentNet has its branches in that one alone. No checkpoint is read.

    Raises:
        ProbeError: If it cannot be built or run here, or gives no feature maps.
    """
    plain = dict(copy.deepcopy(config))
    plain.pop("init_cfg", None)
    if "pretrained" in plain:  # some backbones would download in their constructor
        plain["pretrained"] = None if not isinstance(plain["pretrained"], bool) else False
    return _probe_backbone(_Remembered(plain))


class _Remembered(dict[str, Any]):
    """A config that functions may be cached by."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(self))


@functools.lru_cache(maxsize=256)
def _probe_backbone(config: _Remembered) -> Levels:
    def images(device: str) -> Tensor:
        return torch.zeros(BATCH, 3, SIDE, SIDE, device=device)

    return _levels(_run(dict(config), images), SIDE)


def probe_neck(config: Mapping[str, Any], levels: Levels) -> Levels:
    """The levels of a neck that reads ``levels``.

    Raises:
        ProbeError: As :func:`probe_backbone`.
    """

    def features(device: str) -> tuple[Tensor, ...]:
        sides = [-(-NECK_SIDE // stride) for stride in levels.strides]
        return tuple(
            torch.zeros(BATCH, channels, side, side, device=device)
            for channels, side in zip(levels.channels, sides)
        )

    return _levels(_run(config, features), NECK_SIDE)


def _run(config: Mapping[str, Any], inputs: Any) -> Any:
    """Output of a module: on ``meta`` in no time, on the CPU where it needs values."""
    try:
        return _run_on("meta", config, inputs)
    except Exception:  # whatever a module does with a tensor that has no values
        pass
    try:
        return _run_on("cpu", config, inputs)
    except Exception as error:
        raise ProbeError(one_line(error)) from error


def _run_on(device: str, config: Mapping[str, Any], inputs: Any) -> Any:
    with torch.device(device), torch.no_grad():
        module = revert_sync_batchnorm(MODELS.build(ConfigDict(copy.deepcopy(config)))).to(device)
        module.train()
        return module(inputs(device))


def _levels(outputs: Any, side: int) -> Levels:
    maps = [outputs] if isinstance(outputs, Tensor) else outputs
    if not isinstance(maps, (list, tuple)) or not all(
        isinstance(m, Tensor) and m.dim() == 4 for m in maps
    ):
        raise ProbeError("it gives no feature maps (N, C, H, W)")
    return Levels(
        channels=tuple(m.shape[1] for m in maps),
        strides=tuple(round(side / m.shape[-1]) for m in maps),
        branches=max(m.shape[0] for m in maps) // BATCH,
    )
