"""Can it learn at all? Overfit a few images, the first test of any DETR-like head.

A head whose losses, assignment or initialisation are wrong does not get there; one that is right
reaches COCO AP close to 1 on the images it trains on.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..train.process import prepare_process

#: The eight images of COCO train2017 that the project's own goal (AP >= 0.90) names.
IMAGE_IDS = (9, 61, 64, 86, 136, 142, 143, 144)


def overfit_model(arch: str = "151m", num_classes: int = 80) -> dict[str, Any]:
    """Config of an E2E-MF with the paper's full head and without dropout."""
    return dict(
        type="E2EMF",
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
        ),
        backbone=dict(type="MobileFormer", arch=arch, out_indices=(1, 2, 3)),
        bbox_head=dict(type="E2EMFHead", arch=arch, num_classes=num_classes, dropout=0.0),
    )


def load_images(
    data_root: str | Path, image_ids: Sequence[int], size: int
) -> tuple[list[Any], Any]:
    """The images at ``size`` x ``size`` px, without augmentation.

    Args:
        data_root: A folder in COCO's layout.
        image_ids: COCO image ids of the training split.
        size: Side of the square the images are resized to, in pixels.

    Returns:
        The packed images, and mmdet's data set.

    Raises:
        FileNotFoundError: If the annotation file is not there.
        ValueError: If an image id is not in it.
    """
    annotations = Path(data_root) / "annotations" / "instances_train2017.json"
    if not annotations.is_file():
        raise FileNotFoundError(f"{annotations} does not exist: give a folder in COCO's layout")
    dataset = DATASETS.build(
        dict(
            type="CocoDataset",
            data_root=str(data_root),
            ann_file=f"annotations/{annotations.name}",
            data_prefix=dict(img="train2017/"),
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations", with_bbox=True),
                dict(type="Resize", scale=(size, size), keep_ratio=False),
                dict(type="PackDetInputs"),
            ],
        )
    )
    where = {dataset.get_data_info(i)["img_id"]: i for i in range(len(dataset))}
    missing = [i for i in image_ids if i not in where]
    if missing:
        raise ValueError(f"image id {missing[0]} is not in {annotations}")
    return [dataset[where[i]] for i in image_ids], dataset


def evaluate(
    model: nn.Module, images: list[Any], dataset: Any, ann_file: str | Path
) -> dict[str, float]:
    """COCO metrics of ``model`` on a few images, by mmdet's CocoMetric."""
    metric = CocoMetric(ann_file=str(ann_file), metric="bbox")
    metric.dataset_meta = dataset.metainfo
    model.eval()
    with torch.no_grad():
        samples = model.test_step(pseudo_collate(images))  # type: ignore[operator]
    model.train()
    metric.process({}, [sample.to_dict() for sample in samples])
    # CocoMetric would count every image of its file.
    metric.img_ids = sorted(sample.img_id for sample in samples)
    result: dict[str, float] = metric.evaluate(size=len(samples))
    return result


def _learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over 3 %, constant to 40 %, cosine to zero."""
    if progress < 0.03:
        return peak * (progress / 0.03 + 0.01)
    if progress < 0.4:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6))


def overfit(
    data_root: str | Path,
    minutes: float = 50.0,
    arch: str = "151m",
    image_ids: Sequence[int] = IMAGE_IDS,
    size: int = 320,
    batch_size: int = 4,
    peak_lr: float = 3e-4,
    eval_every: float = 5.0,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on a few images and evaluate on the same ones.

    Args:
        data_root: A folder in COCO's layout.
        minutes: Budget: CPU minutes of the process divided by torch's threads, which is wall time
            on a machine that does nothing else. The schedule ends with it.
        arch: Backbone.
        image_ids: COCO image ids of the training split.
        size: Side of the square the images are resized to, in pixels.
        batch_size: Images per step in the first 60 % of the budget, drawn without replacement.
            After that every step sees all images, whose BatchNorm statistics then stand still.
        peak_lr: Highest learning rate of AdamW.
        eval_every: Minutes between evaluations.
        seed: Seed of the weights.
        report: Receives one line per evaluation.

    Returns:
        CocoMetric's numbers after the last step, with ``iterations`` and ``minutes``.

    Raises:
        FileNotFoundError, ValueError: As :func:`load_images`.
    """
    register_all_modules(init_default_scope=True)
    prepare_process()
    torch.manual_seed(seed)
    images, dataset = load_images(data_root, image_ids, size)
    order = random.Random(seed)
    model = MODELS.build(overfit_model(arch)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.0)
    threads = torch.get_num_threads()
    start = time.process_time()
    wall = time.perf_counter()
    iteration, next_eval = 0, eval_every
    scores: dict[str, float] = {}
    while True:
        used = (time.process_time() - start) / threads / 60
        if used >= next_eval or used >= minutes:
            scores = evaluate(model, images, dataset, dataset.ann_file)
            next_eval += eval_every
            elapsed = (time.perf_counter() - wall) / 60
            report(
                f"{used:5.1f} min of {threads} cores ({elapsed:5.1f} min wall)  iter {iteration}  "
                f"AP {scores['coco/bbox_mAP']:.3f}  AP50 {scores['coco/bbox_mAP_50']:.3f}"
            )
        if used >= minutes:
            break
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(used / minutes, peak_lr)
        shown = order.sample(images, batch_size) if used < 0.6 * minutes else images
        data = model.data_preprocessor(pseudo_collate(shown), training=True)
        losses = model.loss(data["inputs"], data["data_samples"])
        total: Tensor = sum(value for key, value in losses.items() if "loss" in key)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        iteration += 1
        if iteration % 50 == 0:
            report(
                f"{used:5.1f} min  iter {iteration}  loss {total.item():.3f}  last: "
                + "  ".join(f"{k} {losses[k].item():.4f}" for k in losses if "." not in k)
            )
    return {**scores, "iterations": float(iteration), "minutes": used}
