"""--classes: from the annotation file into every data set and head."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from small_set import change, coco, config, data_set, make_set

pytest.importorskip("mmdet.datasets")

from mmdet_mobileformer.data.annotation_file import forget_annotations  # noqa: E402
from mmdet_mobileformer.data.classes import (  # noqa: E402
    config_classes,
    file_classes,
    head_class_counts,
    is_coco,
    set_classes,
)

ROOT = Path(__file__).resolve().parents[2]
HEAD = dict(type="E2EMFHead", num_classes=80)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "data")


@pytest.fixture
def cfg(root: Path, tmp_path: Path) -> Config:
    cfg = config(root, tmp_path / "work")
    cfg.model = dict(type="E2EMF", backbone=dict(type="X", num_classes=1000), bbox_head=HEAD)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        del loader.dataset["metainfo"]
    return cfg


def metainfos(value: Any) -> list[Any]:
    """Every metainfo below a value, found independently of the package."""
    if isinstance(value, dict):
        own = [value["metainfo"]] if "metainfo" in value else []
        return own + [m for v in value.values() for m in metainfos(v)]
    return [m for v in value for m in metainfos(v)] if isinstance(value, (list, tuple)) else []


def test_auto(cfg: Config) -> None:
    assert set_classes(cfg, "auto") == ("cat", "dog")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.metainfo.classes == ("cat", "dog")
    assert cfg.model.bbox_head.num_classes == 2
    assert cfg.model.backbone.num_classes == 1000, "ImageNet's classes are no classes of the data"


def test_one_class_stays_a_tuple(cfg: Config) -> None:
    assert set_classes(cfg, "dog") == ("dog",)
    assert cfg.val_dataloader.dataset.metainfo.classes == ("dog",)
    again = Config.fromstring(cfg.pretty_text, ".py")
    assert again.val_dataloader.dataset.metainfo.classes == ("dog",)
    assert again.model.bbox_head.num_classes == 1


def test_names_are_taken_in_the_files_order(cfg: Config) -> None:
    assert set_classes(cfg, " dog, cat ") == ("cat", "dog")
    with pytest.raises(ValueError, match=r"--classes cow: cow is not in .*, which has cat, dog"):
        set_classes(cfg, "cow")
    with pytest.raises(ValueError, match="no name"):
        set_classes(cfg, ",")


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "repeat": lambda inner: dict(type="RepeatDataset", times=2, dataset=inner),
    "concat": lambda inner: dict(type="ConcatDataset", datasets=[inner, deepcopy(inner)]),
    "mix": lambda inner: dict(
        type="MultiImageMixDataset",
        pipeline=[dict(type="Mosaic", img_scale=(64, 64))],
        dataset=dict(type="RepeatDataset", times=2, dataset=inner),
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_nested_data_sets(cfg: Config, root: Path, name: str) -> None:
    cfg.train_dataloader.dataset = WRAPPERS[name](data_set(root, "train", metainfo=None))
    cfg.test_dataloader = [cfg.val_dataloader, cfg.val_dataloader]
    cfg.tta_dataloader = cfg.val_dataloader
    set_classes(cfg, "auto")
    found = metainfos(cfg.to_dict())
    assert len(found) >= 5 and all(m["classes"] == ("cat", "dog") for m in found)


def test_variables_and_palette_follow(cfg: Config) -> None:
    cfg.metainfo = dict(classes=("a", "b", "c"), palette=[(1, 2, 3)] * 3)
    cfg.class_name, cfg.num_classes = ("a", "b", "c"), 3
    cfg.train_dataloader.dataset.metainfo = cfg.metainfo
    set_classes(cfg, "auto")
    assert cfg.metainfo.classes == cfg.class_name == ("cat", "dog") and cfg.num_classes == 2
    assert len(cfg.train_dataloader.dataset.metainfo.palette) == 2


def test_more_classes_than_colours(cfg: Config, root: Path) -> None:
    names = [dict(id=n, name=f"class {n}") for n in range(1, 101)]
    for split in ("train", "val"):
        change(root / f"annotations/instances_{split}.json", categories=names)
    set_classes(cfg, "auto")
    palette = cfg.val_dataloader.dataset.metainfo.palette
    assert len({tuple(colour) for colour in palette}) == 100


def counts(model: dict[str, Any], root: Path, tmp_path: Path) -> dict[str, int]:
    cfg = config(root, tmp_path / "work")
    cfg.model = model
    set_classes(cfg, "auto")
    return head_class_counts(cfg.model)


def test_every_kind_of_head(root: Path, tmp_path: Path) -> None:
    rpn = dict(type="RPNHead", num_classes=1)
    cascade = dict(
        type="CascadeRCNN",
        rpn_head=rpn,
        roi_head=dict(
            type="HybridTaskCascadeRoIHead",
            bbox_head=[dict(type="Shared2FCBBoxHead", num_classes=80) for _ in range(3)],
            mask_head=dict(type="FCNMaskHead", num_classes=80),
            semantic_head=dict(type="FusedSemanticHead", num_classes=183),
        ),
    )
    found = counts(cascade, root, tmp_path)
    assert len(found) == 4 and set(found.values()) == {2}
    assert cascade["rpn_head"]["num_classes"] == 1, "the argument is not changed"
    auxiliary = dict(bbox_head=HEAD, aux_head=dict(type="FCOSHead", num_classes=80))
    assert counts(auxiliary, root, tmp_path) == {"model.bbox_head": 2, "model.aux_head": 2}
    assert counts(dict(bbox_head=dict(type="FCOSHead")), root, tmp_path) == {"model.bbox_head": 2}


def test_class_weights_follow(root: Path, tmp_path: Path) -> None:
    cfg = config(root, tmp_path / "work")
    loss = dict(type="CrossEntropyLoss", class_weight=[1.0] * 80 + [0.1])
    head = dict(type="MaskFormerHead", num_things_classes=80, num_stuff_classes=0, loss_cls=loss)
    cfg.model = dict(panoptic_head=head, panoptic_fusion_head=dict(num_things_classes=80))
    set_classes(cfg, "auto")
    assert cfg.model.panoptic_head.loss_cls.class_weight == [1.0, 1.0, 0.1]
    assert cfg.model.panoptic_fusion_head.num_things_classes == 2
    cfg.model = dict(panoptic_head=dict(num_things_classes=80, num_stuff_classes=53))
    with pytest.raises(ValueError, match="panoptic"):
        set_classes(cfg, "auto")
    cfg.model = dict(bbox_head=dict(HEAD, loss_cls=dict(class_weight=[*range(80)])))
    with pytest.raises(ValueError, match="a number per class"):
        set_classes(cfg, "auto")


def test_a_model_without_classes(cfg: Config) -> None:
    cfg.model = dict(type="RPN", rpn_head=dict(type="RPNHead"))
    with pytest.raises(ValueError, match="no head with num_classes"):
        set_classes(cfg, "auto")


def test_splits_must_agree(cfg: Config, root: Path) -> None:
    val = root / "annotations/instances_val.json"
    categories = json.loads(val.read_text())["categories"]
    change(val, categories=categories[::-1])
    with pytest.raises(ValueError, match=r"instances_val.json has other classes than .*order"):
        set_classes(cfg, "auto")
    change(val, categories=categories[:1])
    with pytest.raises(ValueError, match="has other classes"):
        set_classes(cfg, "auto")
    # More categories in val are no problem: they are left out.
    change(val, categories=[*categories, dict(id=9, name="cow")])
    assert set_classes(cfg, "auto") == ("cat", "dog")


def test_other_formats_are_refused(cfg: Config) -> None:
    cfg.train_dataloader.dataset.type = "VOCDataset"
    with pytest.raises(ValueError, match="VOCDataset of train_dataloader is not in COCO format"):
        set_classes(cfg, "auto")
    assert is_coco(dict(type="CocoDataset")) and is_coco(dict(type="LVISV1Dataset"))
    assert is_coco(dict(type="mmdet.CityscapesDataset")) and not is_coco(dict(type="XMLDataset"))


def test_roboflows_root_category(tmp_path: Path) -> None:
    content = coco(4)
    root = dict(id=0, name="animals", supercategory="none")
    content["categories"] = [
        root,
        *(dict(c, supercategory="animals") for c in content["categories"]),
    ]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    assert file_classes(file) == ("cat", "dog")
    content["annotations"][0]["category_id"] = 0
    file.write_text(json.dumps(content))
    assert file_classes(file) == ("animals", "cat", "dog"), "it has a box, so it is a class"


def test_bad_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match="a.json"):
        file_classes(file)
    for categories, message in (
        (None, "no list of categories"),
        ([], "names no categories"),
        ([dict(id=1)], "names no categories"),
        ([dict(id=1, name="a"), dict(id=2, name="a")], "several categories named a"),
    ):
        file.write_text(json.dumps({**coco(2), "categories": categories}))
        forget_annotations()
        with pytest.raises(ValueError, match=message):
            file_classes(file)


def test_classes_of_a_config(tmp_path: Path) -> None:
    assert len(config_classes(dict(type="CocoDataset")) or ()) == 80
    assert config_classes(dict(type="CocoDataset", metainfo=dict(classes=["a"]))) == ("a",)
    (tmp_path / "names.txt").write_text("a\nb")
    names = dict(classes=str(tmp_path / "names.txt"))
    assert config_classes(dict(type="CocoDataset", metainfo=names)) == ("a", "b")


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("*.py")))
def test_our_configs(name: str, root: Path) -> None:
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    cfg = Config.fromfile(ROOT / "configs" / name)
    for split in ("train", "val", "test"):
        real = "train" if split == "train" else "val"
        file = str(root / f"annotations/instances_{real}.json")
        inner = cfg[f"{split}_dataloader"].dataset
        while "ann_file" not in inner:
            inner = inner.dataset
        inner.ann_file = file
    set_classes(cfg, "auto")
    assert set(head_class_counts(cfg.model).values()) == {2}
    assert {m["classes"] for m in metainfos(cfg.to_dict()) if m} == {("cat", "dog")}
