"""--data-root reaches every data set and evaluator; missing data is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmdet_mobileformer.data.redirect import check_data, redirect_data_root

OLD = "data/coco/"


def coco(split: str, **kwargs: Any) -> dict[str, Any]:
    return dict(
        type="CocoDataset",
        data_root=OLD,
        ann_file=f"annotations/instances_{split}2017.json",
        data_prefix=dict(img=f"{split}2017/"),
        pipeline=[dict(type="LoadImageFromFile", backend_args=None)],
        **kwargs,
    )


def metric(split: str = "val") -> dict[str, Any]:
    return dict(
        type="CocoMetric", ann_file=f"{OLD}annotations/instances_{split}2017.json", metric="bbox"
    )


def roots(value: Any) -> list[str]:
    """Every data_root in a nested value, found independently of the package."""
    if isinstance(value, dict):
        own = [value["data_root"]] if "data_root" in value else []
        return own + [r for v in value.values() for r in roots(v)]
    if isinstance(value, (list, tuple)):
        return [r for v in value for r in roots(v)]
    return []


NESTED = {
    "plain": coco("train"),
    "repeat": dict(type="RepeatDataset", times=2, dataset=coco("train")),
    "concat": dict(type="ConcatDataset", datasets=[coco("train"), coco("val")]),
    "balanced": dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=coco("train")),
    "mix": dict(
        type="MultiImageMixDataset",
        pipeline=[dict(type="Mosaic")],
        dataset=dict(
            type="RepeatDataset",
            times=2,
            dataset=dict(type="ConcatDataset", datasets=[coco("train")]),
        ),
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_data_sets(name: str) -> None:
    cfg = Config(dict(data_root=OLD, train_dataloader=dict(batch_size=2, dataset=NESTED[name])))
    redirect_data_root(cfg, "/new")
    found = roots(cfg.train_dataloader.to_dict())
    assert found and set(found) == {"/new"} and cfg.data_root == "/new"
    assert OLD not in json.dumps(cfg.to_dict())


def test_every_loader_and_evaluator() -> None:
    loader = dict(batch_size=1, dataset=coco("val"))
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=coco("train")),
            val_dataloader=loader,
            test_dataloader=[loader, loader],
            tta_dataloader=loader,
            val_evaluator=metric(),
            test_evaluator=[metric(), dict(type="DumpDetResults", out_file_path=OLD + "out.pkl")],
            tta_evaluator=dict(type="Evaluator", metrics=[metric()]),
            tta_model=dict(type="DetTTAModel"),
            tta_pipeline=[dict(type="LoadImageFromFile"), dict(type="TestTimeAug", transforms=[])],
        )
    )
    pipelines = cfg.tta_pipeline
    redirect_data_root(cfg, "new")
    assert cfg.val_evaluator.ann_file == "new/annotations/instances_val2017.json"
    assert cfg.test_evaluator[0].ann_file == "new/annotations/instances_val2017.json"
    assert cfg.tta_evaluator.metrics[0].ann_file == "new/annotations/instances_val2017.json"
    assert set(roots(cfg.to_dict())) == {"new"} and len(roots(cfg.to_dict())) == 5
    # What is written stays where the user wants it; relative names stay relative to the root.
    assert cfg.test_evaluator[1].out_file_path == OLD + "out.pkl"
    assert cfg.val_dataloader.dataset.data_prefix == dict(img="val2017/")
    assert cfg.tta_pipeline == pipelines


def test_full_paths_in_the_data_set() -> None:
    data = dict(
        type="CocoDataset",
        ann_file=f"./{OLD}annotations/a.json",
        data_prefix=dict(img=f"{OLD}train2017/"),
    )
    cfg = Config(dict(data_root="data/coco", train_dataloader=dict(dataset=data)))
    redirect_data_root(cfg, "/new/")
    data = cfg.train_dataloader.dataset
    assert data.ann_file == "/new/annotations/a.json" and data.data_prefix.img == "/new/train2017/"


def test_roots_below_the_configs_root_keep_their_place() -> None:
    cfg = Config(
        dict(
            data_root="data/",
            train_dataloader=dict(dataset=coco("train")),
            val_evaluator=metric(),
        )
    )
    redirect_data_root(cfg, "/new")
    assert cfg.train_dataloader.dataset.data_root == "/new/coco"
    assert cfg.val_evaluator.ann_file == "/new/coco/annotations/instances_val2017.json"


def test_shared_objects_move_once() -> None:
    loader, evaluator = dict(dataset=coco("val")), metric()
    cfg = dict(
        data_root="data/",
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=evaluator,
        test_evaluator=[evaluator],
    )
    redirect_data_root(cfg, "data/new")
    assert loader["dataset"]["data_root"] == "data/new/coco"
    assert evaluator["ann_file"] == "data/new/coco/annotations/instances_val2017.json"


def test_a_similar_name_is_no_root() -> None:
    other = dict(type="CocoMetric", ann_file="/data/coco2/a.json")
    cfg = Config(
        dict(
            data_root="/data/coco",
            train_dataloader=dict(dataset=coco("train")),
            val_evaluator=other,
        )
    )
    redirect_data_root(cfg, "/new")
    assert cfg.val_evaluator.ann_file == "/data/coco2/a.json"


def test_what_cannot_be_redirected_is_said() -> None:
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=coco("train")),
            val_evaluator=dict(type="CocoMetric", ann_file="x/a.json"),
        )
    )
    with pytest.raises(ValueError, match=r"ann_file of val_evaluator: 'x/a.json' .* set data_root"):
        redirect_data_root(cfg, "/new")
    with pytest.raises(ValueError, match="no data set"):
        redirect_data_root(Config(dict(model=dict(type="DETR"))), "/new")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        (tmp_path / f"annotations/instances_{split}2017.json").write_text("{}")
    return tmp_path


def full_config() -> Config:
    return Config(
        dict(
            train_dataloader=dict(dataset=NESTED["mix"]),
            val_dataloader=dict(dataset=coco("val")),
            test_dataloader=dict(dataset=coco("val")),
            val_evaluator=metric(),
            test_evaluator=[metric()],
        )
    )


def test_complete_data_passes(tree: Path) -> None:
    cfg = full_config()
    redirect_data_root(cfg, tree)
    check_data(cfg, ("train", "val", "test"))


@pytest.mark.parametrize("gone", ["train2017", "annotations/instances_val2017.json"])
def test_missing_data_is_one_sentence(tree: Path, gone: str) -> None:
    (tree / gone).rename(tree / "elsewhere")
    cfg = full_config()
    redirect_data_root(cfg, tree)
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ("train", "val"))
    text = str(error.value)
    assert str(tree / gone) in text and "annotations/instances_train2017.json" in text
    assert "\n" not in text and "--data-root" in text


def test_only_the_splits_in_use_are_checked(tree: Path) -> None:
    (tree / "train2017").rmdir()
    cfg = full_config()
    redirect_data_root(cfg, tree)
    check_data(cfg, ("val",))
    with pytest.raises(FileNotFoundError, match="train2017"):
        check_data(cfg, ("train",))


def test_the_embedded_set_is_offered() -> None:
    cfg = Config(
        dict(train_dataloader=dict(dataset=dict(data_root="no/shapes", ann_file="a.json")))
    )
    with pytest.raises(FileNotFoundError, match=r"make_shapes\.py"):
        check_data(cfg, ("train",))
