"""Picture files: missing, damaged, of another size, rotated, of odd kinds, in two splits."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from small_set import coco, cut, draw, write_split  # noqa: E402

from mmdet_mobileformer.data.annotation_file import read_annotations  # noqa: E402
from mmdet_mobileformer.data.doctor import files  # noqa: E402
from mmdet_mobileformer.data.doctor.annotations import check_annotations  # noqa: E402
from mmdet_mobileformer.data.doctor.report import Finding  # noqa: E402
from mmdet_mobileformer.data.doctor.sets import DataSet  # noqa: E402


def load(root: Path, split: str, count: int = 0, suffix: str = ".jpg", first: int = 1) -> DataSet:
    """Make a split (or read the one that is there) and its table."""
    ann_file = root / f"{split}.json"
    if count:
        write_split(ann_file, root / split, coco(count, suffix=suffix, first=first))
    data_set = DataSet(split, split, ann_file, root / split)
    data_set.table, _ = check_annotations(read_annotations(ann_file), split)
    return data_set


@pytest.fixture
def train(tmp_path: Path) -> DataSet:
    return load(tmp_path, "train", 20)


def quick(data_set: DataSet) -> dict[str, Finding]:
    sizes = files.file_sizes(data_set)
    found = files.check_presence(data_set, sizes) + files.check_sample(data_set, sizes)
    return {finding.check: finding for finding in found}


def full(data_set: DataSet) -> dict[str, Finding]:
    found, _ = files.check_all(data_set, files.file_sizes(data_set))
    return {finding.check: finding for finding in found}


def test_nothing_is_wrong(train: DataSet) -> None:
    assert quick(train) == {} and full(train) == {}


def test_missing_and_empty(train: DataSet) -> None:
    train.path("003.jpg").unlink()
    train.path("004.jpg").write_bytes(b"")
    found = quick(train)
    assert found["file-missing"].names == ["003.jpg"] and found["file-missing"].level == "warning"
    assert "1 of 20 pictures" in found["file-missing"].message
    assert found["file-empty"].names == ["004.jpg"]
    train.split = "val"
    assert {f.level for f in quick(train).values()} == {"error"}, "validation needs every picture"


def test_many_missing_are_no_accident(train: DataSet) -> None:
    shutil.rmtree(train.folder)
    found = quick(train)
    assert found["file-missing"].level == "error" and found["file-missing"].count == 20


def test_damaged(train: DataSet) -> None:
    cut(train.path("005.jpg"))
    train.path("006.jpg").write_bytes(b"plain text in place of a picture")
    assert [n.split()[0] for n in quick(train)["file-damaged"].names] == ["005.jpg"]
    names = full(train)["file-damaged"].names
    assert [n.split()[0] for n in names] == ["005.jpg", "006.jpg"]
    assert "is truncated" in names[0] and names[1].endswith("is no picture")


def test_a_sample_is_spread_evenly(train: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 21):
        cut(train.path(f"{number:03d}.jpg"))
    finding = files.check_sample(train, files.file_sizes(train), most=7)[0]
    assert finding.count == 7 and "of 7 looked at" in finding.message
    assert [name[:3] for name in finding.names] == ["001", "004", "007", "010", "013", "016", "019"]


def test_another_size(train: DataSet) -> None:
    cv2.imwrite(str(train.path("002.jpg")), np.zeros((60, 80, 3), np.uint8))
    for found in (quick(train), full(train)):
        assert found["size-differs"].names == ["002.jpg (is 80x60, annotated as 40x30)"]
        assert found["size-differs"].level == "warning"
    for number in (3, 4):
        cv2.imwrite(str(train.path(f"00{number}.jpg")), np.zeros((60, 80, 3), np.uint8))
    assert quick(train)["size-differs"].level == "error", "three of twenty are no accident"


def rotate(file: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "gray").save(file, exif=exif)


def test_exif_rotation(train: DataSet) -> None:
    rotate(train.path("002.jpg"), 6, (40, 30))  # stored as annotated, turned when read
    rotate(train.path("003.jpg"), 6, (30, 40))  # upright as annotated
    rotate(train.path("004.jpg"), 3, (40, 30))  # upside down: the size does not tell
    found = quick(train)
    names = found["exif-rotated"].names
    assert names == ["002.jpg (is 30x40, annotated as 40x30)"]
    assert found["exif-rotated"].level == "warning"
    assert found["exif"].names == ["003.jpg", "004.jpg"] and found["exif"].level == "note"
    assert "size-differs" not in found
    train.ignores_orientation = True
    found = quick(train)
    assert found["exif-rotated"].names == ["003.jpg (is 30x40, annotated as 40x30)"]


def test_odd_kinds(tmp_path: Path) -> None:
    train = load(tmp_path, "train", 6, suffix=".png")
    picture = np.full((30, 40, 3), 4000, np.uint16)
    cv2.imwrite(str(train.path("002.png")), picture)
    with Image.open(train.path("003.png")) as image:
        rgb = image.convert("RGB")
    rgb.convert("RGBA").save(train.path("003.png"))
    rgb.convert("CMYK").save(train.path("004.png"), "JPEG")
    for found in (quick(train), full(train)):
        assert found["16-bit"].names == ["002.png"] and found["16-bit"].level == "warning"
        assert found["alpha"].names == ["003.png"] and found["alpha"].level == "note"
        assert found["cmyk"].names == ["004.png"] and found["cmyk"].level == "note"


def test_file_names_with_folders(tmp_path: Path) -> None:
    content = coco(4)
    for image in content["images"]:
        image["file_name"] = f"day{image['id'] % 2}/{image['file_name']}"
    write_split(tmp_path / "train.json", tmp_path / "train", content)
    train = load(tmp_path, "train")
    assert len(files.file_sizes(train)) == 4
    train.path("day1/001.jpg").unlink()
    assert quick(train)["file-missing"].names == ["day1/001.jpg"]


def overlap(train: DataSet, val: DataSet, decode: bool) -> list[Finding]:
    sizes = {d.name: files.file_sizes(d) for d in (train, val)}
    pixels = (
        {d.folder: files.check_all(d, sizes[d.name])[1] for d in (train, val)} if decode else {}
    )
    return files.check_overlap(train, val, pixels, sizes)


@pytest.mark.parametrize("decode", [False, True])
def test_no_overlap(tmp_path: Path, decode: bool) -> None:
    train, val = load(tmp_path, "train", 6), load(tmp_path, "val", 4, first=101)
    assert overlap(train, val, decode) == []
    # Equal names alone mean nothing: many sets number their pictures from 1.
    val = load(tmp_path / "other", "val", 4)
    for number in range(1, 5):
        draw(val.path(f"00{number}.jpg"), seed=900 + number)
    assert overlap(train, val, decode) == []


@pytest.mark.parametrize("decode", [False, True])
def test_the_same_picture_in_both(tmp_path: Path, decode: bool) -> None:
    train, val = load(tmp_path, "train", 6), load(tmp_path, "val", 4, first=101)
    val = load(tmp_path / "b", "val", 4)
    shutil.copy(train.path("002.jpg"), val.path("002.jpg"))
    for number in (1, 3, 4):
        draw(val.path(f"00{number}.jpg"), seed=900 + number)
    [finding] = overlap(train, val, decode)
    assert finding.check == "overlap-content" and finding.level == "warning"
    assert finding.names == ["002.jpg = 002.jpg"]


def test_a_renamed_and_encoded_anew_copy(tmp_path: Path) -> None:
    train, val = load(tmp_path, "train", 6), load(tmp_path, "val", 4, first=101)
    with Image.open(train.path("002.jpg")) as image:
        image.convert("RGB").save(val.path("103.jpg"), "PNG")
    [finding] = overlap(train, val, decode=True)
    assert finding.names == ["002.jpg = 103.jpg"]
    assert overlap(train, val, decode=False) == [], "the quick part reads no pixels"


def test_the_same_files(tmp_path: Path) -> None:
    train = load(tmp_path, "train", 6)
    write_split(tmp_path / "val.json", tmp_path / "train", coco(2))
    val = DataSet("val", "val", tmp_path / "val.json", tmp_path / "train")
    val.table, _ = check_annotations(read_annotations(val.ann_file), "val")
    [finding] = overlap(train, val, decode=False)
    assert finding.check == "overlap-files" and finding.names == ["001.jpg", "002.jpg"]
    assert "2 of 2 pictures of val are trained on" in finding.message


@pytest.mark.parametrize("decode", [False, True])
def test_two_sets_in_one_folder(tmp_path: Path, decode: bool) -> None:
    train = load(tmp_path, "train", 6)
    write_split(tmp_path / "val.json", tmp_path / "train", coco(3, first=101))
    val = DataSet("val", "val", tmp_path / "val.json", tmp_path / "train")
    val.table, _ = check_annotations(read_annotations(val.ann_file), "val")
    sizes = {d.name: files.file_sizes(d) for d in (train, val)}
    pixels: dict[Path, dict[str, str]] = {}
    for data_set in (train, val) if decode else ():
        hashes = files.check_all(data_set, sizes[data_set.name])[1]
        pixels.setdefault(data_set.folder, {}).update(hashes)
    assert files.check_overlap(train, val, pixels, sizes) == []


def test_augmented_copies_of_roboflow(tmp_path: Path) -> None:
    train, val = load(tmp_path, "train", 6), load(tmp_path, "val", 4, first=101)
    train.table.files[1], val.table.files[1] = "a_jpg.rf.123.jpg", "a_jpg.rf.456.jpg"
    [finding] = overlap(train, val, decode=False)
    assert finding.check == "overlap-copies" and finding.names == ["a_jpg"]


def test_copies_within_a_set(train: DataSet) -> None:
    shutil.copy(train.path("002.jpg"), train.path("007.jpg"))
    assert full(train)["duplicate-picture"].names == ["002.jpg = 007.jpg"]
