"""Every defect of an annotation file is found, counted, and named."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from small_set import coco  # noqa: E402

from mmdet_mobileformer.data.doctor.annotations import check_annotations  # noqa: E402

Content = dict[str, Any]


def found(content: Content, evaluated: bool = False) -> dict[str, Any]:
    """Findings by check."""
    _, findings = check_annotations(content, "train", evaluated)
    assert len({f.check + f.message for f in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def test_nothing_is_wrong() -> None:
    table, findings = check_annotations(coco(8), "train")
    assert findings == []
    assert table.files[0] == "001.jpg" and table.sizes.tolist() == [[40, 30]] * 8
    assert table.names == ["cat", "dog"] and table.boxes == 8
    assert table.owner.tolist() == list(range(8)) and table.category.tolist() == [0, 1] * 4


def box(*values: float) -> Callable[[Content], None]:
    def edit(content: Content) -> None:
        content["annotations"][2]["bbox"] = list(values)

    return edit


def field(part: str, key: str, value: Any, index: int = 2) -> Callable[[Content], None]:
    def edit(content: Content) -> None:
        content[part][index][key] = value

    return edit


def without(part: str, key: str) -> Callable[[Content], None]:
    def edit(content: Content) -> None:
        del content[part][1][key]

    return edit


nan, inf = math.nan, math.inf
CASES: dict[str, tuple[Callable[[Content], None], str, str, str]] = {
    # what: (edit, check, level, in the name)
    "negative width": (box(5, 5, -3, 4), "boxes-negative", "warning", "003.jpg (annotation 3: ["),
    "negative height": (box(5, 5, 3, -4), "boxes-negative", "warning", "[5, 5, 3, -4]"),
    "nan": (box(nan, 5, 3, 4), "boxes-not-finite", "warning", "[nan, 5, 3, 4]"),
    "nan width": (box(1, 5, nan, 4), "boxes-not-finite", "warning", "003.jpg"),
    "infinite": (box(1, 5, inf, 4), "boxes-not-finite", "warning", "003.jpg"),
    "absurd": (box(1, 5, 1e30, 4), "boxes-not-finite", "warning", "003.jpg"),
    "zero width": (box(5, 5, 0, 4), "boxes-empty", "warning", "003.jpg"),
    "thin": (box(5, 5, 0.7, 4), "boxes-empty", "warning", "003.jpg"),
    "right of it": (box(41, 5, 4, 4), "boxes-outside", "warning", "003.jpg"),
    "above it": (box(5, -9, 4, 8), "boxes-outside", "warning", "003.jpg"),
    "partly outside": (box(30, 5, 20, 4), "boxes-beyond", "note", "003.jpg"),
    "three numbers": (box(5, 5, 4), "boxes-malformed", "error", "annotation 3"),
    "text": (field("annotations", "bbox", ["1", "2", "3", "4"]), "boxes-malformed", "error", "3"),
    "no list": (field("annotations", "bbox", {"x": 1}), "boxes-malformed", "error", "3"),
    "none": (field("annotations", "bbox", None), "annotation-fields", "error", "3"),
    "no box": (without("annotations", "bbox"), "annotation-fields", "error", "annotation 2"),
    "no area": (without("annotations", "area"), "annotation-fields", "error", "annotation 2"),
    "area zero": (field("annotations", "area", 0), "area-not-positive", "warning", "003.jpg"),
    "image unknown": (
        field("annotations", "image_id", 99),
        "image-id-unknown",
        "warning",
        "no image",
    ),
    "image as text": (field("annotations", "image_id", "3"), "image-id-unknown", "warning", "3"),
    "id is a list": (field("annotations", "image_id", [3]), "annotation-fields", "error", "3"),
    "category unknown": (
        field("annotations", "category_id", 9),
        "category-id-unknown",
        "warning",
        "3",
    ),
    "annotation id twice": (field("annotations", "id", 1), "annotation-id-duplicate", "error", "1"),
    "image id twice": (field("images", "id", 1), "image-id-duplicate", "error", "1"),
    "file twice": (
        field("images", "file_name", "001.jpg"),
        "image-file-duplicate",
        "warning",
        "001",
    ),
    "category id twice": (field("categories", "id", 1, 1), "category-id-duplicate", "error", "1"),
    "name twice": (
        field("categories", "name", "cat", 1),
        "category-name-duplicate",
        "error",
        "cat",
    ),
    "no file name": (without("images", "file_name"), "image-fields", "error", "image 2"),
    "no width": (without("images", "width"), "image-fields", "error", "image 2 (002.jpg)"),
    "width zero": (field("images", "width", 0), "image-size", "error", "003.jpg (0 x 30)"),
    "width text": (field("images", "width", "40"), "image-size", "error", "003.jpg"),
    "no category name": (without("categories", "name"), "category-fields", "error", "category 2"),
}


@pytest.mark.parametrize("name", CASES)
def test_defects(name: str) -> None:
    edit, check, level, part = CASES[name]
    content = coco(8)
    edit(content)
    before = copy.deepcopy(content)
    finding = found(content)[check]
    assert finding.level == level and finding.count == 1
    assert part in finding.names[0] and part in str(finding)
    assert finding.where == "train" and (finding.advice or level == "note")
    assert repr(content) == repr(before), "the file's content is shared and not changed"


def test_unusable_boxes_are_not_in_the_table() -> None:
    content = coco(8)
    for n, values in enumerate([[5, 5, -3, 4], [nan, 1, 1, 1], [41, 5, 4, 4], [5, 5, 0, 4]]):
        content["annotations"][n]["bbox"] = values
    table, findings = check_annotations(content, "train")
    assert table.owner.tolist() == [4, 5, 6, 7] and table.boxes == 8
    empty = next(f for f in findings if f.check == "images-without-boxes")
    assert empty.level == "note" and empty.names == ["001.jpg", "002.jpg", "003.jpg", "004.jpg"]


def test_what_mmdet_trains_on_is_what_the_table_says(tmp_path: Path) -> None:
    """The levels rest on what CocoDataset does, so compare with it."""
    datasets = pytest.importorskip("mmdet.datasets")
    content = coco(12)
    odd = [[5, 5, -3, 4], [5, 5, 0.9, 4], [41, 5, 4, 4], [30, 5, 20, 4], [-9, 5, 10, 4]]
    for n, values in enumerate(odd):
        content["annotations"][n]["bbox"] = values
    content["annotations"][5]["area"] = 0
    content["annotations"][6]["image_id"] = 99
    content["annotations"][7]["category_id"] = 99
    content["annotations"][8]["ignore"] = 1
    (tmp_path / "a.json").write_text(json.dumps(content))
    loaded = datasets.CocoDataset(
        ann_file=str(tmp_path / "a.json"),
        data_prefix=dict(img=""),
        metainfo=dict(classes=("cat", "dog")),
        serialize_data=False,
    )
    counts = [len(loaded.get_data_info(n)["instances"]) for n in range(12)]
    table, _ = check_annotations(content, "train")
    assert np.bincount(table.owner, minlength=12).tolist() == counts
    assert sum(counts) == 5


def test_evaluation_needs_iscrowd() -> None:
    content = coco(8)
    del content["annotations"][0]["iscrowd"]
    assert "annotation-fields" not in found(content)
    assert found(content, evaluated=True)["annotation-fields"].level == "error"


def test_nothing_to_learn_from() -> None:
    content = coco(8)
    content["annotations"] = []
    assert found(content)["no-boxes"].level == "error"
    assert found({**content, "images": []})["no-images"].level == "error"
    assert found({**content, "categories": []})["no-categories"].level == "error"


def test_missing_lists() -> None:
    content = coco(8)
    del content["annotations"]
    assert found(content)["structure"].level == "error"
    assert found({"images": "none"})["structure"].level == "error"
    assert found({"images": [3, None], "categories": [], "annotations": []})["structure"].count == 2


def test_fractions_and_corners_are_recognised() -> None:
    content = coco(20)
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.2, 0.3, 0.5, 0.4]
    assert found(content)["boxes-fractions"].level == "error"
    content = coco(20)
    for n, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = [10 + n % 5, 12, 38, 28]
    assert found(content)["boxes-corners"].level == "error"
    assert not {"boxes-fractions", "boxes-corners"} & set(found(coco(20)))


def test_many_defects_are_counted_in_full() -> None:
    content = coco(300)
    for annotation in content["annotations"][:200]:
        annotation["bbox"] = [5, 5, -1, 2]
    finding = found(content)["boxes-negative"]
    assert finding.count == len(finding.names) == 200
    assert "200 boxes" in finding.message and str(finding).endswith(" and 195 more")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    part=st.sampled_from(["images", "annotations", "categories"]),
    index=st.integers(0, 1),
    key=st.sampled_from(
        ["id", "image_id", "category_id", "bbox", "area", "width", "name", "file_name"]
    ),
    value=JSON,
    whole=st.booleans(),
)
def test_any_content_is_examined(part: str, index: int, key: str, value: Any, whole: bool) -> None:
    content = coco(4)
    if whole:
        content[part] = value
    else:
        content[part][index][key] = value
    table, findings = check_annotations(content, "train")
    assert len(table.owner) == len(table.category) <= 4
    for finding in findings:
        assert finding.count > 0 and "\n" not in finding.message
