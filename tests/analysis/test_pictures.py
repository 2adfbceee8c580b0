from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdet_mobileformer.analysis.pictures import (
    Example,
    class_colours,
    prediction_sheet,
    sheet_from_detector,
)

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "e2emf_demo.py"
PANEL = 300
COLOURS = class_colours([], len(CLASSES))


def example(seed: int, size: tuple[int, int] = (120, 160), objects: int = 4) -> Example:
    """A grey noise image [H, W] with rectangles, and predictions that are their boxes, moved a little."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = rng.integers(90, 130, (height, width, 1)).repeat(3, axis=2).astype(np.uint8)
    corner = rng.uniform(0, 0.7, (objects, 2)) * (width, height)
    boxes = np.concatenate([corner, corner + rng.uniform(12, 50, (objects, 2))], axis=1)
    boxes = np.clip(boxes, 0, [width, height, width, height])
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = rng.integers(150, 250)
    labels = rng.integers(0, len(CLASSES), objects)
    moved = boxes + rng.normal(0, 2, boxes.shape)
    return Example(
        image, boxes, labels, moved, rng.uniform(0.2, 1, objects), labels, f"image {seed}"
    )


def has_colour(image: np.ndarray, label: int) -> bool:
    return bool((image == COLOURS[label]).all(axis=2).sum() > 50)


def test_left_is_truth_and_right_is_prediction(tmp_path: Path) -> None:
    image = np.full((60, 90, 3), 128, dtype=np.uint8)
    box = np.array([[10.0, 20.0, 40.0, 50.0]])
    one = Example(
        image, box, np.array([0]), np.tile(box, (2, 1)), np.array([0.9, 0.1]), np.array([1, 2])
    )
    out = prediction_sheet([one], CLASSES, tmp_path / "deep" / "sheet.png", 0.3, PANEL)
    sheet = np.asarray(Image.open(out).convert("RGB"))
    middle = sheet.shape[1] // 2
    rows = slice(44, 44 + PANEL * 60 // 90)  # below the header, above the legend
    left, right = sheet[rows, :middle], sheet[rows, middle:]
    assert has_colour(left, 0)
    assert not has_colour(left, 1)
    assert has_colour(right, 1)
    assert not has_colour(right, 0)
    assert not has_colour(sheet, 2)  # its only prediction is below the threshold
    assert has_colour(sheet[rows.stop :], 0)  # the legend
    # The box is drawn where it belongs after enlarging by 300 / 90.
    ys, xs = np.nonzero((left == COLOURS[0]).all(axis=2))
    assert xs.min() - 12 == pytest.approx(10 * PANEL / 90, abs=2)
    assert ys.max() == pytest.approx(50 * PANEL / 90, abs=2)


def test_file_sizes_and_empty_rows(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 200), (10, 20, 30)).save(path)
    rows = [Example(path), example(1), example(2, (400, 900))]
    sheet = Image.open(prediction_sheet(rows, CLASSES, tmp_path / "sheet.png", 0.3, PANEL))
    assert sheet.width == 2 * PANEL + 3 * 12
    assert sheet.height > PANEL + PANEL * 120 // 160 + PANEL * 400 // 900


def test_boxes_out_of_the_image_are_cut(tmp_path: Path) -> None:
    image = np.full((50, 50, 3), 128, dtype=np.uint8)
    boxes = np.array(
        [[-30.0, -30.0, 500.0, 20.0], [45.0, 45.0, 45.0, 45.0], [60.0, 60.0, 90.0, 99.0]]
    )
    one = Example(image, boxes, np.array([0, 1, 2]))
    sheet = np.asarray(Image.open(prediction_sheet([one], CLASSES, tmp_path / "s.png", 0.3, PANEL)))
    assert not has_colour(
        sheet[44 : 44 + PANEL, sheet.shape[1] // 2 :], 0
    )  # not into the right half


def test_colours() -> None:
    assert len(set(COLOURS.values())) == len(CLASSES)
    few = class_colours([5, 70, 5], 80)
    assert sorted(few) == [5, 70]
    assert len(set(class_colours(range(80), 80).values())) == 80


def test_more_than_three_are_two_pairs_to_a_line(tmp_path: Path) -> None:
    rows = [example(seed, (80, 80)) for seed in range(5)]
    sheet = Image.open(prediction_sheet(rows, CLASSES, tmp_path / "sheet.png", 0.3, PANEL))
    assert sheet.width > 4 * PANEL
    assert 3 * PANEL < sheet.height < 4 * PANEL


def test_errors(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    with pytest.raises(ValueError, match="at least one"):
        prediction_sheet([], CLASSES, out)
    with pytest.raises(FileNotFoundError, match=r"no\.png.*does not exist"):
        prediction_sheet([Example(tmp_path / "no.png")], CLASSES, out)
    bad = tmp_path / "bad.png"
    bad.write_text("text")
    with pytest.raises(ValueError, match="cannot be read"):
        prediction_sheet([Example(bad)], CLASSES, out)
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="1 boxes but 0 gt_labels"):
        prediction_sheet([Example(image, np.zeros((1, 4)))], CLASSES, out)
    with pytest.raises(ValueError, match="label 6 is not"):
        prediction_sheet([Example(image, np.zeros((1, 4)), np.array([6]))], CLASSES, out)
    assert not out.exists()


def test_sheet_from_a_detector(tmp_path: Path) -> None:
    pytest.importorskip("mmdet")
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config

    import mmdet_mobileformer  # noqa: F401
    from mmdet_mobileformer.data.shapes import make_shapes

    make_shapes(tmp_path / "shapes", {"val": 4})
    cfg = Config.fromfile(str(CONFIG))
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{tmp_path / 'shapes'}/"
    detector = MODELS.build(cfg.model)
    checkpoint = tmp_path / "checkpoint.pth"
    meta = {"dataset_meta": {"classes": cfg.metainfo.classes}}
    torch.save({"meta": meta, "state_dict": detector.state_dict()}, checkpoint)
    before = cfg.pretty_text

    out = sheet_from_detector(cfg, checkpoint, tmp_path / "sheet.png", 2, 0.0, panel=PANEL)
    sheet = np.asarray(Image.open(out).convert("RGB"))
    assert sheet.shape[1] == 2 * PANEL + 3 * 12
    assert sheet.shape[0] > PANEL
    left, right = np.split(sheet[44:], [sheet.shape[1] // 2], axis=1)
    for half in (left, right):  # boxes on both sides: truth, and an untrained model's at score 0
        assert any(has_colour(half, label) for label in range(len(CLASSES)))
    assert cfg.pretty_text == before

    with pytest.raises(FileNotFoundError, match=r"checkpoint '.*no\.pth' does not exist"):
        sheet_from_detector(cfg, tmp_path / "no.pth", out)
