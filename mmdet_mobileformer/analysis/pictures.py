"""Predictions beside ground truth: one sheet with a row per image, for people to look at.

Drawn with Pillow rather than mmdet's visualizer: small images are enlarged first and the labels keep
their size, one colour stands for one class on the whole sheet, and labels avoid each other.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
_INK: Colour = (34, 34, 34)
_GREY: Colour = (110, 116, 122)
_PAPER: Colour = (255, 255, 255)
# Ten colours that stay apart on photographs; further classes get computed hues.
_COLOURS: tuple[Colour, ...] = (
    (230, 57, 70),
    (29, 120, 216),
    (250, 163, 7),
    (32, 158, 84),
    (148, 73, 201),
    (0, 180, 196),
    (240, 98, 183),
    (140, 86, 48),
    (150, 200, 20),
    (90, 100, 200),
)
_GAP = 12


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), dtype=np.float32)


def _no_labels() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


@dataclass
class Example:
    """One row of the sheet. Boxes are x1, y1, x2, y2 in pixels of the image; labels are class indices.

    Attributes:
        image: the path of an image, or an RGB array [H, W, 3] of uint8.
        gt_boxes: [G, 4].
        gt_labels: [G].
        boxes: predictions [N, 4].
        scores: [N] in [0, 1].
        labels: [N].
        title: printed under the row; default the file's name.
    """

    image: str | Path | np.ndarray
    gt_boxes: np.ndarray = field(default_factory=_no_boxes)
    gt_labels: np.ndarray = field(default_factory=_no_labels)
    boxes: np.ndarray = field(default_factory=_no_boxes)
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    labels: np.ndarray = field(default_factory=_no_labels)
    title: str = ""


def class_colours(present: Sequence[int], classes: int) -> dict[int, Colour]:
    """A colour for each class on a sheet, all different.

    Up to ten classes in all have fixed colours, the same on every sheet. Of more, only those
    present get a colour, in order: eighty fixed ones could not be told apart.
    """
    labels = range(classes) if classes <= len(_COLOURS) else sorted(set(present))
    return {label: _colour(rank) for rank, label in enumerate(labels)}


def _colour(rank: int) -> Colour:
    if rank < len(_COLOURS):
        return _COLOURS[rank]
    # Golden-ratio steps around the colour circle: neighbours in number are far apart in hue.
    hue = (rank * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.6 + 0.3 * (rank % 2))
    return round(red * 255), round(green * 255), round(blue * 255)


def prediction_sheet(
    examples: Sequence[Example],
    classes: Sequence[str],
    out_png: str | Path,
    score_threshold: float = 0.3,
    panel: int = 440,
) -> Path:
    """Draws pairs: ground truth on the left, predictions on the right, a legend below.

    More than three examples are drawn two pairs to a line.

    Args:
        examples: the pairs.
        classes: class names; labels are indices into them.
        out_png: the picture; missing directories are made.
        score_threshold: predictions below this score are left out; the sheet says so.
        panel: longer side of each drawn image, in pixels. Smaller images are enlarged.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: an image does not exist.
        ValueError: no example, an unreadable image, boxes and labels that do not fit together, or a
            label that is not an index into ``classes``.
    """
    if not examples:
        raise ValueError("no image to draw: give at least one example.")
    for example in examples:
        _check(example, classes)
    present = [int(v) for e in examples for v in (*e.gt_labels, *_shown(e, score_threshold)[2])]
    colours = class_colours(present, len(classes))
    rows = [_row(example, classes, colours, score_threshold, panel) for example in examples]
    big, small, header = text_font(20), text_font(15), 44
    side = 1 if len(rows) <= 3 else 2
    lines = [rows[i : i + side] for i in range(0, len(rows), side)]
    step = rows[0].width + 3 * _GAP
    width = side * step - _GAP
    legend = _legend(sorted(set(present)), classes, colours, width - 2 * _GAP, small)
    heights = [max(row.height for row in line) + _GAP for line in lines]
    sheet = Image.new("RGB", (width, header + sum(heights) + legend.height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column in range(side):
        left = _GAP + column * step
        draw.text((left, 12), "Ground truth", font=big, fill=_INK)
        right = f"Predictions (score \u2265 {score_threshold:g})"
        draw.text((left + panel + _GAP, 12), right, font=big, fill=_INK)
    top = header
    for line, height in zip(lines, heights):
        for column, row in enumerate(line):
            sheet.paste(row, (_GAP + column * step, top))
        top += height
    sheet.paste(legend, (_GAP, top))
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def sheet_from_detector(
    config: Any,
    checkpoint: str | Path,
    out_png: str | Path,
    count: int = 6,
    score_threshold: float = 0.3,
    device: str = "cpu",
    panel: int = 440,
) -> Path:
    """Runs a detector on the first validation images that have objects, and draws the sheet.

    Args:
        config: an mmdet config file or ``Config``; its ``val_dataloader.dataset`` gives the images.
        checkpoint: the detector's weights.
        count: how many images.
        out_png, score_threshold, panel: as in ``prediction_sheet``.
        device: where the detector runs.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        ValueError: the config has no validation set, or it has no image with an object.
    """
    from mmdet.apis import inference_detector, init_detector
    from mmdet.registry import DATASETS
    from mmengine.config import Config

    import mmdet_mobileformer  # noqa: F401  (registers what the config names)

    for name, path in (("config", config), ("checkpoint", checkpoint)):
        if isinstance(path, (str, Path)) and not Path(path).is_file():
            raise FileNotFoundError(f"{name} '{path}' does not exist.")
    cfg = config if isinstance(config, Config) else Config.fromfile(str(config))
    if cfg.get("val_dataloader") is None:
        raise ValueError("the config has no val_dataloader: nothing to draw predictions on.")
    # A copy: init_detector writes into the config.
    detector = init_detector(cfg.copy(), str(checkpoint), device=device)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    examples: list[Example] = []
    for index in range(len(dataset)):
        if len(examples) == count:
            break
        info = dataset.get_data_info(index)
        objects = [o for o in info["instances"] if not o.get("ignore_flag", 0)]
        if not objects:
            continue
        result = inference_detector(detector, info["img_path"]).pred_instances.numpy()
        examples.append(
            Example(
                info["img_path"],
                np.array([o["bbox"] for o in objects], dtype=np.float32),
                np.array([o["bbox_label"] for o in objects], dtype=np.int64),
                result.bboxes,
                result.scores,
                result.labels,
            )
        )
    if not examples:
        raise ValueError("the validation set has no image with an object: nothing to draw.")
    classes = dataset.metainfo["classes"]
    return prediction_sheet(examples, classes, out_png, score_threshold, panel)


def _check(example: Example, classes: Sequence[str]) -> None:
    name = _title(example) or "the array"
    sizes = {
        "gt_labels": (len(example.gt_labels), len(example.gt_boxes)),
        "labels": (len(example.labels), len(example.boxes)),
        "scores": (len(example.scores), len(example.boxes)),
    }
    for key, (got, wanted) in sizes.items():
        if got != wanted:
            raise ValueError(f"{name}: {wanted} boxes but {got} {key}; give one for each box.")
    for label in (*example.gt_labels, *example.labels):
        if not 0 <= int(label) < len(classes):
            raise ValueError(f"{name}: label {label} is not an index into {len(classes)} classes.")


def _title(example: Example) -> str:
    if example.title or isinstance(example.image, np.ndarray):
        return example.title
    return Path(example.image).name


def read_picture(image: str | Path | np.ndarray) -> Image.Image:
    """The picture in RGB. Raises FileNotFoundError, or ValueError for what is no picture."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an image array must be uint8 [H, W, 3], not {image.shape}.")
        return Image.fromarray(image)
    if not Path(image).is_file():
        raise FileNotFoundError(f"image '{image}' does not exist.")
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")  # upright, as OpenCV reads it
    except OSError as error:
        raise ValueError(f"image '{image}' cannot be read: {error}.") from error


def text_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures of ours, ``size`` pixels high."""
    # matplotlib brings DejaVu along, so the labels look the same on every machine.
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _shown(example: Example, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and labels above the threshold, best first."""
    order = np.argsort(-example.scores, kind="stable")
    order = order[example.scores[order] >= threshold]
    return example.boxes[order], example.scores[order], example.labels[order]


def _row(
    example: Example,
    classes: Sequence[str],
    colours: dict[int, Colour],
    threshold: float,
    panel: int,
) -> Image.Image:
    image = read_picture(example.image)
    scale = panel / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    enlarged = image.resize(size, Image.Resampling.LANCZOS)
    boxes, scores, labels = _shown(example, threshold)
    truth, guess = enlarged.copy(), enlarged
    names = [classes[int(v)] for v in example.gt_labels]
    paints = [colours[int(v)] for v in example.gt_labels]
    draw_boxes(truth, example.gt_boxes * scale, paints, names)
    names = [f"{classes[int(v)]} {score:.2f}" for v, score in zip(labels, scores)]
    paints = [colours[int(v)] for v in labels]
    draw_boxes(guess, boxes * scale, paints, names)

    font, caption = text_font(14), 24
    row = Image.new("RGB", (2 * panel + _GAP, size[1] + caption), _PAPER)
    draw = ImageDraw.Draw(row)
    row.paste(truth, (0, 0))
    row.paste(guess, (panel + _GAP, 0))
    title = _title(example)
    count = len(example.gt_labels)
    left = f"{title}   {image.width}\u00d7{image.height} px, {count} object{'s' * (count != 1)}".strip()
    below = len(example.scores) - len(scores)
    right = f"{len(scores)} shown" if len(scores) else "none above the threshold"
    right += f", {below} below the threshold" if below else ""
    draw.text((0, size[1] + 4), left, font=font, fill=_GREY)
    draw.text((panel + _GAP, size[1] + 4), right, font=font, fill=_GREY)
    return row


def draw_boxes(
    image: Image.Image, boxes: np.ndarray, colours: list[Colour], names: list[str]
) -> None:
    """Boxes first, then labels, so that no box crosses a label. Boxes are in pixels of ``image``."""
    draw = ImageDraw.Draw(image)
    font = text_font(13)
    corners = [_ordered(box, image.size) for box in boxes]
    for (x1, y1, x2, y2), colour in zip(corners, colours):
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=1)
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
    taken: list[Box] = []
    for box, colour, name in zip(corners, colours, names):
        width, height = draw.textlength(name, font=font) + 8, 17.0
        place = _place(box, width, height, image.size, taken, corners)
        taken.append(place)
        draw.rectangle(place, fill=colour)
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        draw.text((place[0] + 4, place[1] + 1), name, font=font, fill=_INK if dark else _PAPER)


def _ordered(box: np.ndarray, size: tuple[int, int]) -> Box:
    """The box inside the picture, its first corner above and left of the second."""
    x = np.clip(np.sort(box[[0, 2]]), 0, size[0] - 1)
    y = np.clip(np.sort(box[[1, 3]]), 0, size[1] - 1)
    return float(x[0]), float(y[0]), float(x[1]), float(y[1])


def _place(
    box: Box,
    width: float,
    height: float,
    size: tuple[int, int],
    taken: list[Box],
    boxes: list[Box],
) -> Box:
    """Where the label goes: above the box if that is free, else where it covers other labels least."""
    x1, y1, x2, y2 = box
    spots = [
        (x1, y1 - height),
        (x1, y1),
        (x2 - width, y1 - height),
        (x1, y2),
        (x2 - width, y2),
        (x2, y1),
        (x1 - width, y1),
        (x1, y2 - height),
    ]
    best, least = (0.0, 0.0, 0.0, 0.0), float("inf")
    for rank, (x, y) in enumerate(spots):
        left = min(max(x, 0.0), max(size[0] - width - 1, 0.0))
        top = min(max(y, 0.0), max(size[1] - height - 1, 0.0))
        spot = (left, top, left + width, top + height)
        # In pixels of covered labels: a usual spot is better, hiding small objects is worse.
        cost = sum(_overlap(spot, other) for other in taken) + 2.0 * rank
        cost += 60.0 * sum(_overlap(spot, other) / _area(other) for other in boxes)
        cost += 0.1 * (abs(left - x) + abs(top - y))
        if cost < least:
            best, least = spot, cost
    return best


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _area(box: Box) -> float:
    return max((box[2] - box[0]) * (box[3] - box[1]), 1.0)


def _legend(
    labels: list[int],
    classes: Sequence[str],
    colours: dict[int, Colour],
    width: int,
    font: ImageFont.FreeTypeFont,
) -> Image.Image:
    """One swatch and name per class on the sheet, in as many lines as it takes."""
    places, x, y = [], 0.0, 0
    for label in labels:
        step = 22 + font.getlength(classes[label]) + 22
        if x and x + step > width:
            x, y = 0.0, y + 26
        places.append((x, y, label))
        x += step
    legend = Image.new("RGB", (width, y + 26 if labels else 1), _PAPER)
    draw = ImageDraw.Draw(legend)
    for x, y, label in places:
        draw.rectangle((x, y + 4, x + 15, y + 19), fill=colours[label])
        draw.text((x + 22, y + 3), classes[label], font=font, fill=_INK)
    return legend
