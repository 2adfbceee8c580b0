"""A folder as labelling tools export it becomes a config's data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from small_set import coco, config, draw, make_set, write_split

pytest.importorskip("mmdet.datasets")

from mmdet_mobileformer.data.layouts import apply_layout, find_layout, use_data_root  # noqa: E402
from mmdet_mobileformer.data.redirect import check_data  # noqa: E402


def coco2017(root: Path) -> None:
    write_split(root / "annotations/instances_train2017.json", root / "train2017", coco(6))
    write_split(root / "annotations/instances_val2017.json", root / "val2017", coco(3, first=11))
    for extra in ("captions", "person_keypoints", "stuff"):
        file = root / f"annotations/{extra}_train2017.json"
        shutil.copy(root / "annotations/instances_train2017.json", file)
    (root / "annotations/image_info_test-dev2017.json").write_text('{"images": [], "info": {}}')


def roboflow(root: Path) -> None:
    for split, first in (("train", 1), ("valid", 11), ("test", 21)):
        write_split(root / split / "_annotations.coco.json", root / split, coco(4, first=first))
    (root / "README.roboflow.txt").write_text("exported")


def cvat(root: Path) -> None:
    write_split(root / "annotations/instances_default.json", root / "images", coco(6))


def cvat_subset_folder(root: Path) -> None:
    write_split(root / "annotations/instances_default.json", root / "images/default", coco(6))


def cvat_subsets(root: Path) -> None:
    for split, first in (("Train", 1), ("Validation", 11)):
        ann_file = root / f"annotations/instances_{split}.json"
        write_split(ann_file, root / "images" / split, coco(4, first=first))


def label_studio(root: Path) -> None:
    content = coco(5)
    for image in content["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    write_split(root / "result.json", root, content)


def fiftyone(root: Path) -> None:
    write_split(root / "labels.json", root / "data", coco(5))


def flat(root: Path) -> None:
    write_split(root / "annotations.json", root, coco(5))


def equal_names(root: Path) -> None:
    for split in ("train", "val"):
        write_split(root / f"annotations/instances_{split}.json", root / split, coco(4))


LAYOUTS: dict[str, tuple[Callable[[Path], None], dict[str, tuple[str, str, int]]]] = {
    "coco": (
        coco2017,
        {
            "train": ("annotations/instances_train2017.json", "train2017", 6),
            "val": ("annotations/instances_val2017.json", "val2017", 3),
        },
    ),
    "roboflow": (
        roboflow,
        {
            "train": ("train/_annotations.coco.json", "train", 4),
            "val": ("valid/_annotations.coco.json", "valid", 4),
            "test": ("test/_annotations.coco.json", "test", 4),
        },
    ),
    "cvat": (cvat, {"train": ("annotations/instances_default.json", "images", 6)}),
    "cvat with a subset's folder": (
        cvat_subset_folder,
        {"train": ("annotations/instances_default.json", "images/default", 6)},
    ),
    "cvat with subsets": (
        cvat_subsets,
        {
            "train": ("annotations/instances_Train.json", "images/Train", 4),
            "val": ("annotations/instances_Validation.json", "images/Validation", 4),
        },
    ),
    "label studio": (label_studio, {"train": ("result.json", ".", 5)}),
    "fiftyone": (fiftyone, {"train": ("labels.json", "data", 5)}),
    "flat": (flat, {"train": ("annotations.json", ".", 5)}),
    "equal names": (
        equal_names,
        {
            "train": ("annotations/instances_train.json", "train", 4),
            "val": ("annotations/instances_val.json", "val", 4),
        },
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path: Path, name: str) -> None:
    make, expected = LAYOUTS[name]
    make(tmp_path)
    layout = find_layout(tmp_path)
    found = {
        split: (
            str(part.ann_file.relative_to(tmp_path)),
            str(part.folder.relative_to(tmp_path)),
            part.images,
        )
        for split, part in layout.splits.items()
    }
    assert found == expected
    assert all(split in layout.describe() for split in expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_config_reads_them(tmp_path: Path, name: str) -> None:
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    make, expected = LAYOUTS[name]
    root = tmp_path / "mine"
    make(root)
    cfg = config(Path("data/other"), tmp_path / "work")
    cfg.test_dataloader, cfg.data_root = cfg.val_dataloader, "data/other"
    cfg.val_evaluator = dict(
        type="CocoMetric", ann_file="data/other/annotations/instances_val.json"
    )
    cfg.test_evaluator = [dict(cfg.val_evaluator)]
    before = {f: f.read_bytes() for f in root.rglob("*") if f.is_file()}
    said: list[str] = []
    use_data_root(cfg, root, say=said.append)
    # "equal names" is the config's own layout, all others are found.
    assert len(said) == (name != "equal names") and cfg.data_root == str(root)
    check_data(cfg, ("train", "val", "test"))
    sizes = []
    for split in ("train", "val", "test"):
        data_set = DATASETS.build(cfg[f"{split}_dataloader"].dataset.to_dict())
        assert data_set[0]["inputs"].shape == (3, 30, 40)
        sizes.append(len(data_set))
    if "val" in expected:
        assert sizes[:2] == [expected["train"][2], expected["val"][2]]
    else:
        assert sizes[0] + sizes[1] == expected["train"][2] and sizes[1] == 1
    val = Path(cfg.val_dataloader.dataset.data_root) / cfg.val_dataloader.dataset.ann_file
    assert Path(cfg.val_evaluator.ann_file) == val
    file = Path(cfg.test_evaluator[0].ann_file).relative_to(root)
    assert ("test" in file.parts) == (name == "roboflow")
    assert {f: f.read_bytes() for f in before} == before, "nothing of the user's is changed"


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    cvat(tmp_path)
    cfg = config(Path("data/other"), tmp_path / "work")
    layout = use_data_root(cfg, tmp_path, say=lambda _: None, make_validation=False)
    assert layout is not None and set(layout.splits) == {"train"}
    assert not (tmp_path / "mobileformer_split").exists()


def test_the_split_is_found_again(tmp_path: Path) -> None:
    cvat(tmp_path)
    files = []
    for _ in range(2):
        cfg = config(Path("data/other"), tmp_path / "work")
        use_data_root(cfg, tmp_path, say=lambda _: None)
        files.append(cfg.val_dataloader.dataset.ann_file)
    assert files == ["mobileformer_split/val.json"] * 2


def test_testing_never_reads_the_training_split(tmp_path: Path) -> None:
    cvat(tmp_path)
    cfg = config(Path("data/other"), tmp_path / "work")
    cfg.test_dataloader = cfg.val_dataloader
    use_data_root(cfg, tmp_path, splits=("test",), say=lambda _: None)
    assert cfg.test_dataloader.dataset.ann_file == "mobileformer_split/val.json"


def test_nested_data_sets(tmp_path: Path) -> None:
    roboflow(tmp_path)
    cfg = config(Path("data/other"), tmp_path / "work")
    inner = dict(type="RepeatDataset", times=3, dataset=cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = dict(type="MultiImageMixDataset", pipeline=[], dataset=inner)
    use_data_root(cfg, tmp_path, say=lambda _: None)
    leaf = cfg.train_dataloader.dataset.dataset.dataset
    assert leaf.ann_file == "train/_annotations.coco.json" and leaf.data_prefix.img == "train/"


def refused(root: Path, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as caught:
        find_layout(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_clear_is_asked(tmp_path: Path) -> None:
    write_split(tmp_path / "a.json", tmp_path, coco(3))
    shutil.copy(tmp_path / "a.json", tmp_path / "b.json")
    assert "several annotation files (a.json, b.json)" in refused(tmp_path)
    (tmp_path / "b.json").rename(tmp_path / "b_train.json")
    assert set(find_layout(tmp_path).splits) == {"train"}, "a name that says train wins"
    (tmp_path / "b_train.json").unlink()
    (tmp_path / "a.json").rename(tmp_path / "a_val.json")
    assert "no annotation file for training, only a_val.json" in refused(tmp_path)


def test_pictures_must_be_there(tmp_path: Path) -> None:
    roboflow(tmp_path)
    for file in (tmp_path / "valid").glob("*.jpg"):
        file.unlink()
    text = refused(tmp_path, FileNotFoundError)
    assert "valid/_annotations.coco.json" in text and "011.jpg" in text


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["data.yaml", "train/labels/1.txt"], "YOLO's layout"),
        (["annotations.xml", "images/1.jpg"], "export as 'COCO 1.0'"),
        (["Annotations/1.xml"], "Pascal VOC"),
        (["1.jpg", "other.json"], "export in COCO format"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, files: list[str], hint: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    text = refused(tmp_path, FileNotFoundError)
    assert hint in text and str(tmp_path) in text


def test_no_folder(tmp_path: Path) -> None:
    cfg = config(Path("data/other"), tmp_path / "work")
    with pytest.raises(FileNotFoundError, match="nowhere/annotations/instances_train.json"):
        use_data_root(cfg, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"incomplete.*no annotation file in COCO format"):
        use_data_root(cfg, tmp_path / "empty")
    assert cfg.train_dataloader.dataset.data_root == "data/other", "the config is as it was"


def test_configs_that_cannot_take_it(tmp_path: Path) -> None:
    roboflow(tmp_path)
    layout = find_layout(tmp_path)
    cfg = config(Path("data/other"), tmp_path / "work")
    leaf = cfg.train_dataloader.dataset
    two: dict[str, Any] = dict(type="ConcatDataset", datasets=[leaf, dict(leaf, ann_file="b.json")])
    cfg.train_dataloader.dataset = two
    with pytest.raises(ValueError, match="train_dataloader joins several data sets"):
        apply_layout(cfg, layout)
    cfg.train_dataloader.dataset = dict(leaf, type="VOCDataset")
    with pytest.raises(ValueError, match="train_dataloader reads VOCDataset"):
        apply_layout(cfg, layout)


def test_the_configs_own_layout_wins(tmp_path: Path) -> None:
    make_set(tmp_path)
    write_split(tmp_path / "train/_annotations.coco.json", tmp_path / "train", coco(2))
    cfg = config(Path("data/other"), tmp_path / "work")
    assert use_data_root(cfg, tmp_path) is None
    assert cfg.train_dataloader.dataset.ann_file == "annotations/instances_train.json"


def test_names_with_a_byte_order_mark(tmp_path: Path) -> None:
    draw(tmp_path / "001.jpg", 1)
    (tmp_path / "train.json").write_text("\ufeff" + json.dumps(coco(1)))
    with pytest.raises(ValueError, match="train.json starts with a byte order mark"):
        find_layout(tmp_path)


def test_our_config_on_roboflows_export(tmp_path: Path) -> None:
    roboflow(tmp_path)
    root = Path(__file__).resolve().parents[2]
    cfg = Config.fromfile(root / "configs/e2emf_508m_coco.py")
    use_data_root(cfg, tmp_path, say=lambda _: None)
    assert cfg.train_dataloader.dataset.data_prefix.img == "train/"
    assert cfg.test_dataloader.dataset.ann_file == "test/_annotations.coco.json"
    assert cfg.val_evaluator.ann_file == str(tmp_path / "valid/_annotations.coco.json")
