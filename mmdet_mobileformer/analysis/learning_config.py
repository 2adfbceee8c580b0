"""The config of one run of the benchmark of learning, and the split of its training set (ours)."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..data.classes import set_class_count
from ..models import config_folder
from ..train.build import read_config
from .learning import (
    ALL_AUGMENTATIONS,
    AVERAGES,
    BATCH,
    CROP_FROM,
    NOWHERE,
    POINTS,
    SELECT,
    SOURCES,
    TASKS,
    Places,
    Run,
    Task,
)


@cache
def _own_parts(config: str) -> dict[str, Any]:
    """Model and optimizer of a config, to be copied: a plan asks for each many times."""
    cfg = read_config(str(config_folder() / f"{config}.py"))
    return dict(model=cfg.model.to_dict(), optim_wrapper=cfg.optim_wrapper.to_dict())


def base_lr(config: str) -> float:
    """The learning rate of a config, given as :attr:`Candidate.config`."""
    return float(_own_parts(config)["optim_wrapper"]["optimizer"]["lr"])


def train_pipeline(name: str, size: int) -> list[dict[str, Any]]:
    """The transforms of an augmentation.

    Args:
        name: ``'flip'``; ``'crop'``: half of the pictures are enlarged and cropped, as in DETR;
            ``'mosaic'``: four pictures in one, colours changed, and mixup, as in RTMDet;
            ``'growing'``: ``'crop'`` at half the size, whose steps take less time. Runs end the
            last two at :data:`~.learning.CROP_FROM`.
        size: Longest side of the result in pixels.

    Raises:
        ValueError: If there is no such augmentation.
    """
    if name == "growing":
        return train_pipeline("crop", size // 2)
    square = (size, size)
    load: list[dict[str, Any]] = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True),
    ]
    flip: list[dict[str, Any]] = [dict(type="RandomFlip", prob=0.5)]
    resize = [dict(type="Resize", scale=square, keep_ratio=True)]
    crop = dict(
        type="RandomCrop", crop_type="absolute", crop_size=square, allow_negative_crop=True
    )
    if name == "flip":
        steps = [*load, *resize, *flip]
    elif name == "crop":
        larger = dict(type="RandomResize", scale=square, ratio_range=(1.0, 2.0), keep_ratio=True)
        steps = [*load, dict(type="RandomChoice", transforms=[resize, [larger, crop]]), *flip]
    elif name.startswith("mosaic"):
        steps = [
            *load,
            dict(type="CachedMosaic", img_scale=square, pad_val=114.0, max_cached_images=20,
                 random_pop=False),
            dict(type="RandomResize", scale=(2 * size, 2 * size), ratio_range=(0.5, 1.5),
                 keep_ratio=True),
            crop,
            dict(type="YOLOXHSVRandomAug"),
            *flip,
            dict(type="Pad", size=square, pad_val=dict(img=(114, 114, 114))),
            dict(type="CachedMixUp", img_scale=square, ratio_range=(1.0, 1.0),
                 max_cached_images=10, random_pop=False, pad_val=(114, 114, 114), prob=0.5),
        ]
    else:
        raise ValueError(
            f"there is no augmentation {name!r}: choose one of {', '.join(ALL_AUGMENTATIONS)}"
        )
    return [*steps, dict(type="PackDetInputs")]


def test_pipeline(size: int) -> list[dict[str, Any]]:
    """The transforms of a test: the longest side becomes ``size`` pixels."""
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    return [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(size, size), keep_ratio=True),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="PackDetInputs", meta_keys=keys),
    ]


def _loader(
    task: Task, places: Places, ann_file: str, folder: str, batch: int, pipeline: Any, train: bool
) -> dict[str, Any]:
    data_set = dict(
        type="CocoDataset",
        data_root=places.root,
        ann_file=ann_file,
        data_prefix=dict(img=f"{folder}/"),
        metainfo=dict(classes=task.class_names),
        test_mode=not train,
        pipeline=pipeline,
    )
    if train:
        data_set["filter_cfg"] = dict(filter_empty_gt=task.needs_boxes)
    return dict(
        batch_size=batch,
        # The pictures are small: handing them over from a worker takes longer than loading.
        num_workers=0,
        persistent_workers=False,
        drop_last=train,
        sampler=dict(type="DefaultSampler", shuffle=train),
        dataset=data_set,
    )


def run_config(run: Run, places: Places = NOWHERE) -> Config:
    """The whole config of a run: model and optimizer of its config, all else of its task.

    Validation is on the 200 pictures that choices are made on, testing on the validation set.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If the run names no task or augmentation, its options do not fit the config, or
            its processes do not divide a step's images.
    """
    if run.task not in TASKS:
        raise ValueError(f"there is no task {run.task!r}: choose one of {', '.join(TASKS)}")
    if run.processes < 1 or BATCH % run.processes:
        raise ValueError(f"{run.processes} processes do not divide a step of {BATCH} images")
    task = TASKS[run.task]
    cfg = Config(copy.deepcopy(_own_parts(run.config)))
    try:
        cfg.merge_from_dict(dict(run.options))
    except Exception as error:  # mmengine's own assertions among them
        raise ValueError(f"the options of {run.model} do not fit {run.config}: {error}") from error
    set_class_count(cfg.model, len(task.class_names))
    cfg.optim_wrapper.optimizer.lr = run.lr
    # Not for all: peers' runs, and the hashes of their configs, do not depend on our options.
    if cfg.model.get("dense_first"):
        cfg.find_unused_parameters = True
    else:
        # A recipe without a wait is the one that has no such option.
        cfg.model.pop("dense_first", None)
    # What a forked or quantised wrapper of the config would need GPUs for.
    cfg.optim_wrapper.type = "OptimWrapper"
    source = SOURCES[task.data]
    batch = BATCH // run.processes
    train = train_pipeline(run.augmentation, task.size)
    test = test_pipeline(task.size)
    select = f"{places.split}/select.json"
    val = f"{places.root}/{source.val[0]}"
    train_cfg: dict[str, Any] = dict(
        type="MinutesTrainLoop",
        minutes=run.minutes,
        val_points=POINTS if run.kind == "report" else 1,
    )
    hooks: list[dict[str, Any]] = [dict(type="NumClassCheckHook")]
    if run.ema:
        hooks.append(
            dict(type="EMAHook", **AVERAGES[run.ema], update_buffers=True, priority=49)
        )
    if run.augmentation in CROP_FROM:
        share = CROP_FROM[run.augmentation]
        train_cfg["cut_at"] = [share]
        hooks.append(
            dict(type="ClockPipelineSwitchHook", switch_share=share,
                 switch_pipeline=train_pipeline("crop", task.size))
        )
    cfg.merge_from_dict(
        dict(
            default_scope="mmdet",
            custom_imports=dict(imports=["mmdet_mobileformer"], allow_failed_imports=False),
            train_dataloader=_loader(
                task, places, f"{places.split}/fit.json", source.train[1], batch, train, True
            ),
            val_dataloader=_loader(
                task, places, select, source.train[1], batch, test, False
            ),
            test_dataloader=_loader(task, places, source.val[0], source.val[1], batch, test, False),
            val_evaluator=dict(type="CocoMetric", ann_file=select, metric="bbox"),
            test_evaluator=dict(type="CocoMetric", ann_file=val, metric="bbox"),
            train_cfg=train_cfg,
            val_cfg=dict(type="ValLoop"),
            test_cfg=dict(type="TestLoop"),
            default_hooks=dict(
                timer=dict(type="IterTimerHook"),
                # Every step: an epoch that the clock ends may have few.
                logger=dict(type="LoggerHook", interval=1),
                # The loop sets the learning rate, so there are no schedulers to save.
                checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1,
                                save_param_scheduler=False),
                sampler_seed=dict(type="DistSamplerSeedHook"),
            ),
            custom_hooks=hooks,
            env_cfg=dict(
                cudnn_benchmark=False,
                mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
                dist_cfg=dict(backend="nccl"),
            ),
            log_processor=dict(type="LogProcessor", window_size=20, by_epoch=True),
            randomness=dict(seed=run.seed),
        )
    )
    return cfg


def config_hash(run: Run) -> str:
    """First 12 digits of the SHA-256 of all that a run's result may depend on, but for the seed.

    Folders do not count, so that it is the same on every machine.
    """
    content = run_config(run).to_dict()
    content.pop("randomness")
    content["threads"] = run.threads
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def select_ids(image_ids: Sequence[int], count: int = SELECT) -> set[int]:
    """The pictures that choices are made on: those whose ids' hashes come first.

    Raises:
        ValueError: If there are not more pictures than that.
    """
    if len(image_ids) <= count:
        raise ValueError(
            f"the training set has {len(image_ids)} pictures, of which {count} are split off: give "
            "a larger one"
        )
    order = sorted(image_ids, key=lambda key: hashlib.sha256(str(key).encode()).digest())
    return set(order[:count])


def split_training_set(
    data: str, root: str | Path, folder: str | Path, count: int = SELECT
) -> Places:
    """Write the annotation files ``fit.json`` and ``select.json`` of a data set.

    Args:
        data: Key of :data:`SOURCES`.
        root: The data set; nothing is written there.
        folder: Where the two files go.
        count: Pictures to split off.

    Raises:
        FileNotFoundError: If the training set's annotation file is missing.
        ValueError: If it is too small.
    """
    file = Path(root) / SOURCES[data].train[0]
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give the folder of the data set {data}")
    content = json.loads(file.read_text())
    chosen = select_ids([image["id"] for image in content["images"]], count)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name, inside in (("fit", False), ("select", True)):
        part = {
            **content,
            "images": [i for i in content["images"] if (i["id"] in chosen) == inside],
            "annotations": [
                a for a in content["annotations"] if (a["image_id"] in chosen) == inside
            ],
        }
        text = json.dumps(part)
        target = place / f"{name}.json"
        if not target.is_file() or target.read_text() != text:
            target.write_text(text)
    return Places(str(Path(root).resolve()), str(place.resolve()))
