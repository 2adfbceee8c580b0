"""Annotation files are read once, without polygons, and errors are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_set import coco

from mmdet_mobileformer.data.annotation_file import forget_annotations, read_annotations


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


@pytest.mark.parametrize("indent", [None, 2])
def test_only_polygons_are_left_out(file: Path, indent: int | None) -> None:
    content = coco(4)
    polygons = [[[1, 2.5, 3e1, -4]], [[1], [2, 3]], [], {"counts": [1, 2], "size": [30, 40]}]
    for annotation, polygon in zip(content["annotations"], polygons):
        annotation["segmentation"] = polygon
        annotation["note"] = 'a "segmentation": [1, 2] in a text'
    file.write_text(json.dumps(content, indent=indent))
    for annotation in content["annotations"][:3]:
        annotation["segmentation"] = []
    assert read_annotations(file) == content


def test_a_file_is_read_once_until_it_changes(file: Path) -> None:
    file.write_text(json.dumps(coco(4)))
    first = read_annotations(file)
    assert read_annotations(str(file)) is first
    file.write_text(json.dumps(coco(5)))
    assert len(read_annotations(file)["images"]) == 5
    forget_annotations()
    assert read_annotations(file) is not first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON (it is empty)"),
        ('{"images": [', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "not in COCO format"),
        ('{"annotations": []}', "not in COCO format"),
    ],
)
def test_bad_files(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_annotations(file)
    assert message in str(error.value) and str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a.json cannot be read"):
        read_annotations(file)
    with pytest.raises((FileNotFoundError, ValueError), match=r"a.json|annotation file"):
        read_annotations(file.parent)
