"""Gradients of a tiny E2E-MF in float64; under torchrun each rank takes its half of the batch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dist import get_dist_info
from mmengine.registry import MODEL_WRAPPERS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

import mmdet_mobileformer  # noqa: F401
from mmdet_mobileformer.train.launch import adapt_to_processes, close_launcher, init_launcher

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import CONFIG

SIZE = 64


def build() -> tuple[nn.Module, Config]:
    """The detector in float64: training mode but for BatchNorm, no dropout, synchronised factor."""
    init_default_scope("mmdet")
    cfg = Config.fromstring(CONFIG, ".py")
    cfg.model.bbox_head.update(sync_cls_avg_factor=True, dropout=0.0)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model, cfg


def batch(boxes_per_image: list[int]) -> tuple[Tensor, list[DetDataSample]]:
    """Random images of one size [N, 3, SIZE, SIZE] with so many boxes each."""
    generator = torch.Generator().manual_seed(1)
    shape = (len(boxes_per_image), 3, SIZE, SIZE)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    samples = []
    for count in boxes_per_image:
        corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * SIZE / 2
        extent = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 24 + 6
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(SIZE, SIZE),
                ori_shape=(SIZE, SIZE),
                batch_input_shape=(SIZE, SIZE),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + extent], dim=1),
            labels=torch.randint(0, 2, (count,), generator=generator),
        )
        samples.append(sample)
    return images, samples


def gradients(wrapped: nn.Module, model: nn.Module, images: Tensor, samples: Any) -> dict[str, Any]:
    """Loss and gradient of every parameter (None where there is none)."""
    losses = wrapped(images, samples, mode="loss")
    loss, _ = model.parse_losses(losses)  # type: ignore[operator]
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return dict(loss=loss.detach(), grads=grads)


def measure(boxes: list[int]) -> dict[str, Any]:
    """Gradients of this process's share of a batch."""
    rank, world = get_dist_info()
    model, cfg = build()
    adapt_to_processes(cfg, "pytorch")
    wrapped = MODEL_WRAPPERS.build(cfg.model_wrapper_cfg, default_args=dict(module=model))
    images, samples = batch(boxes)
    share = len(boxes) // world
    mine = slice(rank * share, (rank + 1) * share)
    return gradients(wrapped, model, images[mine], samples[mine])


def main(out: Path, counts: list[list[int]]) -> None:
    init_launcher("pytorch")
    results = [measure(boxes) for boxes in counts]
    torch.save(results, out / f"rank{get_dist_info()[0]}.pth")
    close_launcher()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [[int(n) for n in arg.split(",")] for arg in sys.argv[2:]])
