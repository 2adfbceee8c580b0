"""Data sets of a config, and whether its classes, heads and evaluators fit the files."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

pytest.importorskip("mmdet.datasets")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from small_set import coco, config, make_set  # noqa: E402

from mmdet_mobileformer.data.doctor.annotations import check_annotations  # noqa: E402
from mmdet_mobileformer.data.doctor.report import Finding  # noqa: E402
from mmdet_mobileformer.data.doctor.sets import (  # noqa: E402
    DataSet,
    check_classes,
    check_evaluators,
    check_model,
    sets_of_config,
)

THREE = ("cat", "cow", "dog")


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return config(make_set(tmp_path / "data"), tmp_path / "work")


def test_sets_of_a_config(cfg: Config, tmp_path: Path) -> None:
    cfg.test_dataloader = deepcopy(cfg.val_dataloader)
    cfg.train_dataloader.dataset = dict(
        type="SkipBadSamples",
        dataset=dict(type="RepeatDataset", times=2, dataset=cfg.train_dataloader.dataset),
    )
    sets, notes = sets_of_config(cfg)
    assert [s.name for s in sets] == ["train_dataloader", "val_dataloader, test_dataloader"]
    assert sets[0].ann_file == tmp_path / "data/annotations/instances_train.json"
    assert sets[0].path("001.jpg") == tmp_path / "data/train/001.jpg"
    assert sets[0].classes == ("cat", "dog") and not notes
    assert [s.name for s in sets_of_config(cfg, ("train",))[0]] == ["train_dataloader"]


def test_what_cannot_be_examined_is_said(cfg: Config) -> None:
    cfg.train_dataloader.dataset.type = "VOCDataset"
    cfg.val_dataloader.dataset.data_root = "s3://bucket"
    sets, notes = sets_of_config(cfg)
    assert not sets and [note.level for note in notes] == ["note", "note"]
    assert "VOCDataset is no COCO file" in notes[0].message


@pytest.mark.parametrize(
    ("color_type", "expected"),
    [("color", False), ("color_ignore_orientation", True), ("unchanged", True)],
)
def test_orientation(cfg: Config, color_type: str, expected: bool) -> None:
    cfg.train_dataloader.dataset.pipeline[0].color_type = color_type
    assert sets_of_config(cfg)[0][0].ignores_orientation is expected


def classes(
    configured: tuple[str, ...] | None,
    filed: tuple[str, ...],
    split: str = "train",
    used: Any = None,
) -> dict[str, Finding]:
    content = coco(6, categories=filed)
    for annotation in content["annotations"] if used else []:
        annotation["category_id"] = used
    table, _ = check_annotations(content, split)
    data_set = DataSet(split, split, Path(), Path(), configured, table=table)
    return {finding.check: finding for finding in check_classes(data_set)}


def test_classes_that_fit() -> None:
    assert classes(THREE, THREE) == {} and classes(None, THREE) == {}


def test_no_class_in_common() -> None:
    finding = classes(("person", "Dog ", "car", "bus"), ("cat", "dog"))["classes-differ"]
    assert finding.level == "error" and "--classes auto" in finding.advice
    assert "4 classes (person, Dog , car ...)" in finding.message and "cat, dog" in finding.message
    assert "'Dog ' is spelled 'dog' there" in finding.message


@pytest.mark.parametrize(
    ("configured", "filed"),
    [(("dog", "cat"), ("cat", "dog")), (THREE, ("cat", "dog")), (THREE, ("dog", "cow"))],
)
def test_labels_that_mmdet_would_shift(
    configured: tuple[str, ...], filed: tuple[str, ...], tmp_path: Path
) -> None:
    from mmdet.datasets import CocoDataset

    finding = classes(configured, filed)["classes-order"]
    assert finding.level == "error"
    (tmp_path / "a.json").write_text(json.dumps(coco(6, categories=filed)))
    loaded = CocoDataset(
        ann_file=str(tmp_path / "a.json"),
        data_prefix=dict(img=""),
        metainfo=dict(classes=configured),
        serialize_data=False,
    )
    # mmdet really trains the first named class under the label of another.
    name = finding.names[0]
    label = loaded.cat2label[1 + filed.index(name)]
    assert configured[label] != name
    assert f"{name!r} the label of {configured[label]!r}" in finding.message


def test_classes_that_are_left_out_or_absent() -> None:
    found = classes(("cat",), ("cat", "dog"))
    assert found["classes-left-out"].level == "note"
    assert "1 categories with 3 boxes" in found["classes-left-out"].message
    found = classes(("cat", "dog", "emu"), ("cat", "dog"))
    assert found["classes-absent"].level == "warning" and found["classes-absent"].names == ["emu"]
    assert classes(THREE, THREE, used=1)["class-unused"].names == ["cow", "dog"]
    assert classes(THREE, THREE, split="val", used=1) == {}
    assert classes(None, THREE, used=1)["class-unused"].level == "note"


def with_tables(sets: list[DataSet]) -> list[DataSet]:
    for data_set in sets:
        content = json.loads(data_set.ann_file.read_text())
        data_set.table, _ = check_annotations(content, data_set.name)
    return sets


def test_heads(cfg: Config) -> None:
    sets = with_tables(sets_of_config(cfg)[0])
    cfg.model = dict(bbox_head=dict(num_classes=2, num_queries=1), rpn_head=dict(num_classes=1))
    assert check_model(cfg, sets) == []
    cfg.model.bbox_head.num_classes = 80
    found = check_model(cfg, sets)
    assert {f.level for f in found} == {"error"} and len(found) == 2
    assert "model.bbox_head.num_classes is 80" in found[0].message
    assert "train_dataloader has 2 classes" in found[0].message


def test_more_boxes_than_queries(cfg: Config) -> None:
    sets = with_tables(sets_of_config(cfg)[0])
    sets[0].table.owner[:3] = 4
    cfg.model = dict(bbox_head=dict(num_classes=2, num_queries=2))
    [finding] = check_model(cfg, sets)
    assert finding.check == "more-boxes-than-queries" and finding.names == ["005.jpg (4)"]


def test_evaluators(cfg: Config, tmp_path: Path) -> None:
    sets = sets_of_config(cfg)[0]
    own = str(tmp_path / "data/annotations/../annotations/instances_val.json")
    cfg.val_evaluator = [dict(type="CocoMetric", ann_file=own), dict(type="DumpResults")]
    assert check_evaluators(cfg, sets) == []
    cfg.val_evaluator[0].ann_file = own.replace("val", "train")
    [finding] = check_evaluators(cfg, sets)
    assert finding.level == "warning" and "val_evaluator reads" in finding.message
