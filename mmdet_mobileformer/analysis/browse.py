"""A data set as training sees it: each picture with its boxes, and what the augmentations make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures.bbox import BaseBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image, ImageDraw

from ..data.redirect import check_data, redirect_data_root
from .pictures import Colour, class_colours, draw_boxes, read_picture, text_font

_GREY: Colour = (120, 126, 132)
_INK: Colour = (34, 34, 34)
_GAP = 12


def data_set(cfg: Config, split: str, data_root: str | None = None) -> Any:
    """Build the data set of a split.

    Args:
        cfg: A config; changed in place if ``data_root`` is given.
        split: ``'train'``, ``'val'`` or ``'test'``.
        data_root: As ``--data-root`` of tools/train.py.

    Raises:
        FileNotFoundError: If the data is not there.
        ValueError: If the config has no such split, or the data does not fit it.
    """
    loader = cfg.get(f"{split}_dataloader")
    if loader is None:
        raise ValueError(f"config {cfg.filename} has no {split}_dataloader")
    if data_root is not None:
        redirect_data_root(cfg, data_root)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    check_data(cfg, (split,))
    return DATASETS.build(loader.dataset)


def browse(
    dataset: Any, out: Path, count: int = 20, times: int = 3, panel: int = 400
) -> Iterator[Path]:
    """Draw pictures of a data set, one PNG each: the file with its boxes, then augmented versions.

    Args:
        dataset: One of mmdet's, possibly wrapped (RepeatDataset ...).
        out: Folder for ``0000_NAME.png`` ...; it is made.
        count: At most so many pictures, from the first on.
        times: How often each goes through the pipeline.
        panel: Longer side of each drawn image, in pixels.

    Yields:
        The path of each PNG as it is written.
    """
    classes = dataset.metainfo["classes"]
    # Fixed over the files, so that a class keeps its colour while one leafs through them.
    colours = class_colours(range(len(classes)), len(classes))
    out.mkdir(parents=True, exist_ok=True)
    for index in range(min(count, len(dataset))):
        info = dataset.get_data_info(index)
        panels = [_as_annotated(info, classes, colours, panel)]
        panels += [_as_trained(dataset[index], classes, colours, panel) for _ in range(times)]
        path = out / f"{index:04d}_{Path(info['img_path']).stem}.png"
        _beside(panels).save(path)
        yield path


def _as_annotated(
    info: dict[str, Any], classes: tuple[str, ...], colours: dict[int, Colour], panel: int
) -> Image.Image:
    instances = info["instances"]
    boxes = np.array([i["bbox"] for i in instances], dtype=np.float32).reshape(-1, 4)
    labels = np.array([i["bbox_label"] for i in instances], dtype=np.int64)
    ignored = np.array([bool(i.get("ignore_flag", 0)) for i in instances], dtype=bool)
    title = f"{Path(info['img_path']).name}, as annotated"
    picture = read_picture(info["img_path"])
    return _panel(picture, boxes, labels, ignored, classes, colours, panel, title)


def _as_trained(
    item: dict[str, Any], classes: tuple[str, ...], colours: dict[int, Colour], panel: int
) -> Image.Image:
    pixels = item["inputs"].permute(1, 2, 0).numpy()[..., ::-1]  # mmdet's pipelines are BGR
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    sample = item["data_samples"]
    groups = [g for g in (sample.get("gt_instances"), sample.get("ignored_instances")) if g is not None]
    boxes = np.concatenate([_boxes(group) for group in groups] or [np.zeros((0, 4))])
    labels = np.concatenate([group.labels.numpy() for group in groups] or [np.zeros(0)])
    ignored = np.repeat([False, True][: len(groups)], [len(group) for group in groups])
    return _panel(picture, boxes, labels, ignored, classes, colours, panel, "through the pipeline")


def _boxes(instances: Any) -> np.ndarray:
    boxes = instances.bboxes
    tensor = boxes.tensor if isinstance(boxes, BaseBoxes) else boxes
    array: np.ndarray = tensor.numpy().reshape(-1, 4)
    return array


def _panel(
    picture: Image.Image,
    boxes: np.ndarray,
    labels: np.ndarray,
    ignored: np.ndarray,
    classes: tuple[str, ...],
    colours: dict[int, Colour],
    panel: int,
    title: str,
) -> Image.Image:
    scale = panel / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    drawn = picture.resize(size, Image.Resampling.LANCZOS)
    names = [
        f"{classes[int(label)]} (ignored)" if skip else classes[int(label)]
        for label, skip in zip(labels, ignored)
    ]
    paints = [_GREY if skip else colours[int(label)] for label, skip in zip(labels, ignored)]
    draw_boxes(drawn, boxes * scale, paints, names)
    sheet = Image.new("RGB", (panel, size[1] + 44), (255, 255, 255))
    sheet.paste(drawn, (0, 0))
    draw, font = ImageDraw.Draw(sheet), text_font(14)
    while draw.textlength(title, font=font) > panel and len(title) > 20:
        title = "\u2026" + title[2:]
    draw.text((0, size[1] + 4), title, font=font, fill=_INK)
    below = f"{picture.width}\u00d7{picture.height} px, {len(boxes)} box{'es' * (len(boxes) != 1)}"
    draw.text((0, size[1] + 22), below, font=font, fill=_GREY)
    return sheet


def _beside(panels: list[Image.Image]) -> Image.Image:
    width = sum(panel.width + _GAP for panel in panels) + _GAP
    height = max(panel.height for panel in panels) + 2 * _GAP
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    x = _GAP
    for panel in panels:
        sheet.paste(panel, (x, _GAP))
        x += panel.width + _GAP
    return sheet
