"""A small COCO-format data set to break, a toy detector that trains on it, and its Runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS

WIDTH, HEIGHT = 40, 30
CATEGORIES = ("cat", "dog")


def coco(
    count: int, categories: tuple[str, ...] = CATEGORIES, suffix: str = ".jpg", first: int = 1
) -> dict[str, Any]:
    """Annotations of `count` pictures with one box each, classes in turn."""
    images = [
        dict(id=first + n, file_name=f"{first + n:03d}{suffix}", width=WIDTH, height=HEIGHT)
        for n in range(count)
    ]
    annotations = [
        dict(
            id=first + n,
            image_id=first + n,
            category_id=1 + n % len(categories),
            bbox=[4, 5, 20, 12],
            area=240,
            iscrowd=0,
        )
        for n in range(count)
    ]
    named = [dict(id=1 + n, name=name) for n, name in enumerate(categories)]
    return dict(images=images, annotations=annotations, categories=named)


def draw(file: Path, seed: int) -> None:
    """A picture of noise, so that no two are alike."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(file), noise)


def write_split(ann_file: Path, folder: Path, content: dict[str, Any]) -> None:
    """Write an annotation file and draw all its pictures."""
    ann_file.parent.mkdir(parents=True, exist_ok=True)
    ann_file.write_text(json.dumps(content))
    for image in content["images"]:
        draw(folder / image["file_name"], seed=image["id"])


def make_set(root: Path, train: int = 8, val: int = 3) -> Path:
    """COCO's layout: annotations/instances_SPLIT.json beside SPLIT/."""
    for split, content in (("train", coco(train)), ("val", coco(val, first=101))):
        write_split(root / f"annotations/instances_{split}.json", root / split, content)
    return root


def change(ann_file: Path, **lists: Any) -> None:
    """Replace top-level lists of an annotation file."""
    ann_file.write_text(json.dumps({**json.loads(ann_file.read_text()), **lists}))


def cut(file: Path) -> Path:
    """Cut a file in half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


@MODELS.register_module(force=True)
class ToyDetector(BaseModel):
    """Writes down which pictures it is trained on; its loss is of one parameter."""

    def __init__(self) -> None:
        super().__init__(dict(type="mmdet.DetDataPreprocessor"))
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[list[str]] = []
        self.boxes: list[int] = []

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        self.seen.append([Path(sample.img_path).name for sample in data_samples])
        self.boxes += [len(sample.gt_instances) for sample in data_samples]
        if mode == "loss":
            return dict(loss=sum(image.float().mean() for image in inputs) * self.weight.sum())
        return data_samples


def data_set(root: Path, split: str, **kwargs: Any) -> dict[str, Any]:
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape")),
    ]
    result = dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file=f"annotations/instances_{split}.json",
        data_prefix=dict(img=f"{split}/"),
        metainfo=dict(classes=CATEGORIES),
        pipeline=pipeline,
        test_mode=split != "train",
        serialize_data=False,  # mmengine collects garbage for it, which takes longer than all the rest
    )
    return {**result, **kwargs}


def config(root: Path, work_dir: Path, **kwargs: Any) -> Config:
    """A whole config of a run on a small set, pictures in order, batches of two."""
    loaders = {
        f"{split}_dataloader": dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=data_set(root, split),
        )
        for split in ("train", "val")
    }
    return Config(
        dict(
            default_scope="mmdet",
            model=dict(type="ToyDetector"),
            **loaders,
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=2, val_begin=9),
            val_cfg=dict(type="ValLoop"),
            val_evaluator=dict(type="DumpResults", out_file_path=str(work_dir / "out.pkl")),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.0)),
            work_dir=str(work_dir),
            log_level="WARNING",
            experiment_name=work_dir.name + work_dir.parent.name,
            default_hooks=dict(logger=None, checkpoint=None),
            **kwargs,
        )
    )
