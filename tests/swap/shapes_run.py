"""Swapped configs on the embedded data set, small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet_mobileformer.data.shapes import CLASSES

SIDE = 96


def on_shapes(cfg: Config, root: Path, work_dir: Path, steps: int) -> Config:
    """The config with the embedded data (boxes and polygons), small images and a short schedule."""
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        dict(type="Resize", scale=(SIDE, SIDE), keep_ratio=False),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackDetInputs"),
    ]
    _small(cfg.model)
    new = dict(
        default_scope="mmdet",
        model=cfg.model,
        work_dir=str(work_dir),
        custom_imports=cfg.custom_imports,
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dict(
                type="CocoDataset",
                data_root=str(root),
                metainfo=dict(classes=CLASSES),
                ann_file="annotations/instances_train.json",
                data_prefix=dict(img="train/"),
                pipeline=pipeline,
            ),
        ),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=steps + 1),
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=1e-3),
            clip_grad=dict(max_norm=1.0),
        ),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=steps),
        ),
        log_processor=dict(by_epoch=False, window_size=1),
        randomness=dict(seed=0),
        log_level="WARNING",
    )
    return Config(new)


def _small(value: Any) -> None:
    """The data set's classes, few proposals, no padding to a fixed size."""
    if isinstance(value, dict):
        value.pop("batch_augments", None)
        if isinstance(value.get("num_classes"), int):
            value["num_classes"] = len(CLASSES)
        for key, most in (("nms_pre", 100), ("max_per_img", 30)):
            if isinstance(value.get(key), int):
                value[key] = min(value[key], most)
        if "pos_fraction" in value:
            value["num"] = min(value["num"], 16)
        for item in value.values():
            _small(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _small(item)
