"""The validation split: the same everywhere, whole groups, every class, nothing overwritten."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_set import coco, cut, write_split

from mmdet_mobileformer.data.split import choose_validation, split_off_validation


def groups(content: dict[str, Any]) -> dict[Any, str]:
    return {image["id"]: image["file_name"] for image in content["images"]}


def chosen(content: dict[str, Any]) -> set[Any]:
    return choose_validation(content["images"], content["annotations"], groups(content))


@pytest.mark.parametrize(
    ("images", "expected"), [(1000, 100), (300, 30), (100, 20), (20, 4), (5, 1)]
)
def test_how_many(images: int, expected: int) -> None:
    assert abs(len(chosen(coco(images))) - expected) <= 1


def test_the_same_on_every_machine() -> None:
    content = coco(200)
    # Fixed by the hash of the names: a change of these numbers changes everyone's splits.
    assert sorted(chosen(coco(20))) == [3, 9, 10, 17]
    first = chosen(content)
    random.Random(0).shuffle(content["images"])
    random.Random(1).shuffle(content["annotations"])
    assert chosen(content) == first


def test_every_class_is_on_both_sides() -> None:
    content = coco(100, categories=("a", "b", "c", "d", "e"))
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = (
            1 if number >= 9 else 2 + number // 3
        )  # three of each rare class
    val = chosen(content)
    for inside in (True, False):
        classes = {
            a["category_id"] for a in content["annotations"] if (a["image_id"] in val) == inside
        }
        assert classes == {1, 2, 3, 4}


def test_a_class_in_one_picture_stays_in_training() -> None:
    content = coco(30)
    content["annotations"][4]["category_id"] = 9
    assert 5 not in chosen(content)


def test_groups_stay_together(tmp_path: Path) -> None:
    content = coco(40)
    for image in content["images"]:
        source = (image["id"] - 1) // 4
        image["file_name"] = f"p{source}_jpg.rf.{image['id']}.jpg"
    write_split(tmp_path / "all.json", tmp_path, content)
    copy = tmp_path / "q_jpg.rf.1.jpg"
    shutil.copy(tmp_path / "p3_jpg.rf.13.jpg", copy)  # equal content under another name
    content["images"].append(dict(content["images"][0], id=99, file_name=copy.name))
    (tmp_path / "all.json").write_text(json.dumps(content))
    files = split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    sides: dict[str, set[str]] = {}
    for name, file in files.items():
        for image in json.loads(file.read_text())["images"]:
            source = image["file_name"].split("_jpg")[0].replace("q", "p3")
            sides.setdefault(source, set()).add(name)
    assert len(sides) == 10 and all(len(names) == 1 for names in sides.values())


def test_all_annotations_are_kept(tmp_path: Path) -> None:
    content = coco(30)
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    content["info"] = dict(description="mine")
    write_split(tmp_path / "all.json", tmp_path, content)
    files = split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    parts = [json.loads(file.read_text()) for file in files.values()]
    for key in ("images", "annotations"):
        together = sorted(parts[0][key] + parts[1][key], key=lambda item: item["id"])
        assert together == content[key]
    for part in parts:
        assert part["info"] == content["info"] and part["categories"] == content["categories"]
        ids = {image["id"] for image in part["images"]}
        assert {a["image_id"] for a in part["annotations"]} <= ids


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_split(tmp_path / "all.json", tmp_path, coco(30))
    before = (tmp_path / "all.json").read_bytes()
    files = split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    stamps = {file: file.stat().st_mtime_ns for file in files.values()}
    assert split_off_validation(tmp_path / "all.json", tmp_path, tmp_path) == files
    assert {file: file.stat().st_mtime_ns for file in files.values()} == stamps
    assert (tmp_path / "all.json").read_bytes() == before
    write_split(tmp_path / "all.json", tmp_path, coco(31))
    with pytest.raises(
        ValueError, match=r"mobileformer_split is not a split of .*all.json as it is now"
    ):
        split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in files.values()} == stamps
    assert Counter(p.name[0] for p in tmp_path.iterdir())["."] == 0, "no partial folder is left"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    write_split(tmp_path / "data/all.json", tmp_path / "data", coco(30))
    # A file in its place: root may write anywhere, so permissions would not stop a test.
    blocked = tmp_path / "data/all.json"
    with pytest.raises(OSError, match="validation split cannot be written to"):
        split_off_validation(blocked, tmp_path / "data", blocked)
    files = split_off_validation(blocked, tmp_path / "data", blocked, tmp_path / "work")
    assert files["val"] == tmp_path / "work/mobileformer_split/val.json" and files["val"].is_file()


def test_damaged_pictures_are_not_validated_on(tmp_path: Path) -> None:
    write_split(tmp_path / "all.json", tmp_path, coco(30))
    would = [f"{number:03d}.jpg" for number in sorted(chosen(coco(30)))]
    cut(tmp_path / would[0])
    (tmp_path / would[1]).unlink()
    files = split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    taken = {image["file_name"] for image in json.loads(files["val"].read_text())["images"]}
    assert taken and not taken & set(would[:2])
    # Repairing them later does not move pictures between the splits.
    write_split(tmp_path / "all.json", tmp_path, coco(30))
    stamp = files["val"].stat().st_mtime_ns
    split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    assert files["val"].stat().st_mtime_ns == stamp


def test_a_damaged_split_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "all.json", tmp_path, coco(30))
    files = split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    for text in ("{", '{"images": 3}', '{"images": []}'):
        files["val"].write_text(text)
        with pytest.raises(ValueError, match="move the folder away"):
            split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)


def test_too_few(tmp_path: Path) -> None:
    write_split(tmp_path / "all.json", tmp_path, coco(1))
    with pytest.raises(ValueError, match="too few pictures"):
        split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    write_split(tmp_path / "all.json", tmp_path, coco(2))
    assert not (tmp_path / "mobileformer_split").exists()
    files = split_off_validation(tmp_path / "all.json", tmp_path, tmp_path)
    assert [len(json.loads(f.read_text())["images"]) for f in files.values()] == [1, 1]
