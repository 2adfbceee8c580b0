"""A short check of a detector on a device: the same forward as on the CPU, and training steps."""

from __future__ import annotations

import math
import time
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.structures import InstanceData
from torch import Tensor

from .amp import CpuAmpOptimWrapper


class Steps(NamedTuple):
    """Losses of some training steps, seconds per step, and the device's peak memory in bytes."""

    losses: list[float]
    seconds: float
    peak_memory: int


def build_detector(cfg: Any) -> Any:
    """The detector of a config with its initial weights; the same on every call."""
    torch.manual_seed(0)
    model = MODELS.build(deepcopy(cfg.model))
    model.init_weights()
    return model


def random_batch(images: int = 2, size: int = 256, classes: int = 1) -> dict[str, Any]:
    """Random images [3, size, size] in 0 to 255, each with two boxes, as a data loader gives them.

    The second image is a quarter less wide, so that padding is part of the check.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for index in range(images):
        height, width = size, size - (size // 4 if index else 0)
        inputs.append(torch.randint(0, 256, (3, height, width), generator=generator).byte())
        corner = torch.rand(2, 2, generator=generator) * (width / 2)
        extent = torch.rand(2, 2, generator=generator) * (width / 4) + 16
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + extent], dim=1),
            labels=torch.randint(0, classes, (2,), generator=generator),
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


@torch.no_grad()
def forward_difference(cfg: Any, device: str, size: int = 256) -> float:
    """Largest absolute difference of the raw outputs between the CPU and `device`, in float32."""
    outputs = []
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        for place in ("cpu", device):
            model = build_detector(cfg).eval().to(place)
            data = model.data_preprocessor(random_batch(size=size), False)
            outputs.append(_tensors(model(**data, mode="tensor")))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
    pairs = zip(*outputs)
    return max(float((a.cpu() - b.cpu()).abs().max()) for a, b in pairs)


def train_steps(cfg: Any, device: str, amp: bool, steps: int = 3, size: int = 256) -> Steps:
    """Train a few steps on one random batch; the first step is not in the time.

    Raises:
        ValueError: when a loss is not finite.
    """
    model = build_detector(cfg).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    wrapper: Any = OptimWrapper
    if amp:
        wrapper = CpuAmpOptimWrapper if device == "cpu" else AmpOptimWrapper
    optim_wrapper = wrapper(optimizer=optimizer, clip_grad=dict(max_norm=0.1))
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    losses: list[float] = []
    start = time.perf_counter()
    for step in range(steps):
        log = model.train_step(random_batch(size=size), optim_wrapper)
        losses.append(float(log["loss"].detach()))
        if not math.isfinite(losses[-1]):
            raise ValueError(
                f"training on {device} (amp={amp}) gave a loss that is not finite: {losses}"
            )
        if on_gpu:
            torch.cuda.synchronize(device)
        if step == 0:
            start = time.perf_counter()
    seconds = (time.perf_counter() - start) / max(steps - 1, 1)
    return Steps(losses, seconds, torch.cuda.max_memory_allocated(device) if on_gpu else 0)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in nested tuples and lists, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
