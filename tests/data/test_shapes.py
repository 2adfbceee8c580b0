"""The embedded data set keeps what its docstring promises."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mmdet_mobileformer.data import shapes
from mmdet_mobileformer.data.shapes import (
    CLASSES,
    SEED,
    SHAPES_SHA256,
    SPLITS,
    dataset_hash,
    make_shapes,
)
from mmdet_mobileformer.data.shapes_drawing import coverage, draw_picture

TOOL = Path(__file__).resolve().parents[2] / "tools/dataset_converters/make_shapes.py"
TINY = {"train": 6, "val": 3}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return out, make_shapes(out)


def read_annotations(out: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / f"annotations/instances_{split}.json").read_text())
    return content


def snapshot(folder: Path) -> dict[str, bytes]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def test_full_set_has_the_fixed_hash(full: tuple[Path, dict[str, Any]]) -> None:
    out, result = full
    assert result["sha256"] == SHAPES_SHA256
    assert dataset_hash(out) == SHAPES_SHA256  # from the files, not from what was drawn
    assert (out / "SHA256").read_text().split()[0] == SHAPES_SHA256
    assert {split: found["images"] for split, found in result["splits"].items()} == dict(SPLITS)
    assert [p.name for p in out.parent.iterdir()] == ["shapes"]  # no temporary folder left


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_promised_properties(full: tuple[Path, dict[str, Any]], split: str) -> None:
    out, result = full
    found = result["splits"][split]
    assert len(CLASSES) >= 5 and list(found["classes"]) == list(CLASSES)
    # No class is rare: every one has between half and twice its even share.
    even = found["objects"] / len(CLASSES)
    assert all(0.5 * even < count < 2 * even for count in found["classes"].values())

    content = read_annotations(out, split)
    per_image = np.zeros(len(content["images"]) + 1, int)
    for annotation in content["annotations"]:
        per_image[annotation["image_id"]] += 1
    assert per_image.max() <= 15 and (per_image >= 10).sum() >= 0.02 * len(per_image)
    assert 0.01 < (per_image[1:] == 0).mean() < 0.10
    assert np.median(per_image[1:]) >= 3

    sides = np.array([a["bbox"][2:] for a in content["annotations"]])
    assert (sides < 32).all(axis=1).mean() >= 0.30
    assert (sides > 96).any(axis=1).mean() >= 0.02
    assert sides.min() >= 6 and np.sqrt(sides.prod(axis=1)).min() >= 10

    visible = np.array([a["visible"] for a in content["annotations"]])
    assert visible.min() >= 0.5 and visible.max() == 1.0
    assert 0.10 < (visible < 0.95).mean() < 0.5


def test_boxes_are_tight_around_polygons_inside_the_image(
    full: tuple[Path, dict[str, Any]],
) -> None:
    content = read_annotations(full[0], "train")
    size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for annotation in content["annotations"]:
        (points,) = annotation["segmentation"]
        xy = np.array(points).reshape(-1, 2)
        x, y, w, h = annotation["bbox"]
        assert (x, y) == tuple(xy.min(axis=0)) and (x + w, y + h) == tuple(xy.max(axis=0))
        width, height = size[annotation["image_id"]]
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert 0.3 * w * h < annotation["area"] <= w * h or annotation["visible"] < 1
        assert annotation["iscrowd"] == 0


def test_loads_with_pycocotools_and_masks_agree(full: tuple[Path, dict[str, Any]]) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    out, _ = full
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO(str(out / "annotations/instances_val.json"))
    assert tuple(c["name"] for c in coco.loadCats(coco.getCatIds())) == CLASSES
    assert len(set(coco.getAnnIds())) == len(coco.dataset["annotations"])
    for annotation in coco.loadAnns(coco.getAnnIds()[:200]):
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # COCO's rasteriser drops slim tips, so the mask may end earlier, never later.
        assert np.abs(np.array(seen) - [x, y, x + w, y + h]).max() <= 4.0
        assert abs(int(mask.sum()) - annotation["area"]) <= 0.1 * annotation["area"] + 8


def test_colour_tells_nothing_about_the_class(full: tuple[Path, dict[str, Any]]) -> None:
    """Mean colours are alike for all classes, and a classifier on them only guesses."""
    out, _ = full
    content = read_annotations(out, "train")
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        if annotation["visible"] == 1.0:  # nothing else inside its polygon
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    colours, labels = [], []
    for image in content["images"][:600]:
        picture = cv2.imread(str(out / "train" / image["file_name"]))
        assert picture is not None
        for annotation in by_image.get(image["id"], []):
            polygon = np.array(annotation["segmentation"][0]).reshape(-1, 2)
            mask = coverage(polygon, image["width"], image["height"]) == 16
            colours.append(picture[mask].mean(axis=0))
            labels.append(annotation["category_id"] - 1)
    colour, label = np.array(colours), np.array(labels)
    assert len(label) > 1200

    means = np.array([colour[label == k].mean(axis=0) for k in range(len(CLASSES))])
    errors = np.array(
        [colour[label == k].std(axis=0) / np.sqrt((label == k).sum()) for k in range(len(CLASSES))]
    )
    assert (np.abs(means - colour.mean(axis=0)) < 4 * errors).all()

    # Nearest class mean and 15 nearest neighbours, learnt on one half and tried on the other.
    half = len(label) // 2
    known, asked = colour[:half], colour[half:]
    centres = np.array([known[label[:half] == k].mean(axis=0) for k in range(len(CLASSES))])
    nearest = ((asked[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    close = ((asked[:, None] - known) ** 2).sum(axis=2).argsort(axis=1)[:, :15]
    votes = np.array([np.bincount(label[:half][row], minlength=6).argmax() for row in close])
    for guess in (nearest, votes):
        assert (guess == label[half:]).mean() < 0.27  # chance is 0.17


def test_pictures_depend_on_seed_split_and_index_alone(tmp_path: Path) -> None:
    few = make_shapes(tmp_path / "few", TINY)
    again = make_shapes(tmp_path / "again", dict(reversed(TINY.items())))
    assert few["sha256"] == again["sha256"] == dataset_hash(tmp_path / "few")
    assert make_shapes(tmp_path / "other", TINY, seed=SEED + 1)["sha256"] != few["sha256"]
    picture, _ = draw_picture(SEED, "train", 5)
    on_disk = cv2.imread(str(tmp_path / "few/train/000005.png"))
    assert on_disk is not None and np.array_equal(picture, on_disk[..., ::-1])
    for other in (draw_picture(SEED, "val", 5)[0], draw_picture(SEED, "train", 6)[0]):
        assert picture.shape != other.shape or not np.array_equal(picture, other)


def test_hash_sees_a_changed_pixel_and_a_changed_box_but_not_the_encoder(tmp_path: Path) -> None:
    out = tmp_path / "set"
    sha256 = make_shapes(out, TINY)["sha256"]
    path = out / "val/000002.png"
    picture = cv2.imread(str(path))
    assert picture is not None
    before = path.read_bytes()
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert path.read_bytes() != before and dataset_hash(out) == sha256
    changed = picture.copy()
    changed[3, 4, 1] ^= 1
    cv2.imwrite(str(path), changed)
    assert dataset_hash(out) != sha256
    cv2.imwrite(str(path), picture)
    content = read_annotations(out, "val")
    content["annotations"][0]["bbox"][0] += 0.125
    (out / "annotations/instances_val.json").write_text(json.dumps(content))
    assert dataset_hash(out) != sha256


def test_a_finished_set_is_kept_and_returned_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    first = make_shapes(out, TINY)
    before = snapshot(out)

    def drawn(*_: object) -> None:
        raise RuntimeError("drew again")

    monkeypatch.setattr(shapes, "draw_picture", drawn)
    second = make_shapes(out, TINY)
    assert first["made"] and not second["made"]
    assert {**first, "made": False} == second and snapshot(out) == before


def test_anything_else_is_refused_and_kept(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    a_file = tmp_path / "file"
    a_file.write_text("mine")
    made = tmp_path / "made"
    make_shapes(made, TINY)
    damaged = tmp_path / "damaged"
    make_shapes(damaged, TINY)
    (damaged / "train/000001.png").unlink()
    before = snapshot(tmp_path)
    for out, splits in ((mine, TINY), (a_file, TINY), (made, {"train": 7}), (damaged, TINY)):
        with pytest.raises(FileExistsError, match=re.escape(str(out))):
            make_shapes(out, splits)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("splits", [{"train": 0}, {"../up": 3}, {"annotations": 3}])
def test_impossible_splits_are_refused(tmp_path: Path, splits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(next(iter(splits))))):
        make_shapes(tmp_path / "set", splits)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = draw_picture

    def stops(seed: int, split: str, index: int) -> Any:
        if index == 4:
            raise KeyboardInterrupt
        return real(seed, split, index)

    monkeypatch.setattr(shapes, "draw_picture", stops)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "set", TINY)
    assert not list(tmp_path.iterdir())


def test_missing_picture_is_named_by_the_hash(tmp_path: Path) -> None:
    make_shapes(tmp_path / "set", TINY)
    (tmp_path / "set/val/000003.png").unlink()
    with pytest.raises(FileNotFoundError, match="000003.png"):
        dataset_hash(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="instances"):
        dataset_hash(tmp_path)


def test_tool_prints_the_set_and_refuses_in_one_sentence(
    full: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run_tool(out: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["make_shapes.py", str(out)])
        runpy.run_path(str(TOOL), run_name="__main__")

    run_tool(full[0])
    printed = capsys.readouterr().out
    assert SHAPES_SHA256 in printed and "already there" in printed
    assert f"train: {SPLITS['train']} images" in printed and "star" in printed
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=re.escape(str(tmp_path))) as refusal:
        run_tool(tmp_path)
    assert "\n" not in str(refusal.value)
