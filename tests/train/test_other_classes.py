"""A checkpoint of another number of classes gives all but its classifier, and the log says so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

pytest.importorskip("mmdet.datasets")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from small_set import ToyDetector, config, make_set  # noqa: E402

from mmdet_mobileformer.train.other_classes import (  # noqa: E402
    accept_other_classes,
    drop_classifier,
)


@MODELS.register_module(force=True)
class ToyWithClassifier(ToyDetector):
    """A trunk, a query table, and a classifier with a background score."""

    def __init__(self, classes: int, width: int = 4, queries: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Linear(2, width)
        self.queries = nn.Embedding(queries, width)
        self.fc_cls = nn.Linear(width, classes + 1)
        # Not zero: the weights after a step are those that were loaded.
        for parameter in self.parameters():
            parameter.requires_grad_(parameter is self.weight)


def shapes(**kwargs: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in kwargs.items()}


def test_only_the_classifier_is_dropped() -> None:
    theirs = shapes(stem=(8, 3), head__cls=(81, 4), head__cls_bias=(81,), head__reg=(4, 4))
    ours = shapes(stem=(8, 3), head__cls=(6, 4), head__cls_bias=(6,), head__reg=(4, 4))
    for known in ((80, 5), (None, 5), (80, None), (None, None)):
        state = dict(theirs)
        assert drop_classifier(state, ours, *known) == ["head.cls", "head.cls_bias"]
        assert set(state) == {"stem", "head.reg"}


def test_anchors_boxes_per_class_and_embeddings() -> None:
    theirs = shapes(retina_cls=(720, 4), fc_cls=(81, 2), fc_reg=(320, 2), label_embedding=(80, 4))
    ours = shapes(retina_cls=(45, 4), fc_cls=(6, 2), fc_reg=(20, 2), label_embedding=(5, 4))
    assert len(drop_classifier(dict(theirs), ours, 80, 5)) == 4
    assert len(drop_classifier(dict(theirs), ours)) == 4
    # YOLOv3's layer predicts boxes and objectness too; PointRend's takes class scores as input.
    theirs, ours = (
        shapes(convs_pred=(255, 4), point=(8, 336)),
        shapes(convs_pred=(30, 4), point=(8, 261)),
    )
    assert len(drop_classifier(dict(theirs), ours, 80, 5)) == 2


@pytest.mark.parametrize(
    ("theirs", "ours", "named"),
    [
        (dict(cls=(81, 4), query=(100, 4)), dict(cls=(6, 4), query=(30, 4)), "query"),
        (dict(cls=(81, 4), stem=(8, 3)), dict(cls=(6, 4), stem=(16, 3)), "stem"),
        (dict(cls=(81, 4)), dict(cls=(6, 8)), "cls"),
        (dict(cls=(81, 4)), dict(cls=(6, 4, 1)), "cls"),
    ],
)
def test_another_model_is_refused(theirs: Any, ours: Any, named: str) -> None:
    state = shapes(**theirs)
    with pytest.raises(ValueError, match=f"another model.*{named} has shape"):
        drop_classifier(state, shapes(**ours), 80, 5)
    assert set(state) == set(theirs), "nothing was dropped"


def test_without_the_numbers_the_name_has_to_say_it() -> None:
    with pytest.raises(ValueError, match="another model"):
        drop_classifier(shapes(stem=(8, 3)), shapes(stem=(16, 3)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, str]]:
    """Train for one epoch from a checkpoint; returns the model and the log."""
    root = make_set(tmp_path / "data", train=2)
    monkeypatch.setattr(Runner, "_log_env", lambda *_: None)
    monkeypatch.setattr(Config, "pretty_text", property(lambda self: ""))

    def train(load_from: Path, ema: bool = False, **model: Any) -> tuple[Any, str]:
        work_dir = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
        cfg = config(root, work_dir)
        cfg.model = dict(type="ToyWithClassifier", **{"classes": 2, **model})
        cfg.train_cfg.max_epochs = 1
        cfg.load_from = str(load_from)
        if ema:
            cfg.custom_hooks = [dict(type="EMAHook", momentum=0.5)]
        accept_other_classes(cfg)
        runner = Runner.from_cfg(cfg)
        try:
            runner.train()
        finally:
            log = "\n".join(file.read_text() for file in work_dir.rglob("*.log"))
        return runner, log

    return train


def saved(path: Path, classes: Any = None, model: Any = None, **meta: Any) -> dict[str, Any]:
    """Write a checkpoint as mmengine does, all weights 7; returns its weights."""
    model = model or ToyWithClassifier(5)
    state = {name: torch.full_like(value, 7) for name, value in model.state_dict().items()}
    dataset_meta = {"dataset_meta": {"classes": classes}} if classes else {}
    torch.save(dict(state_dict=state, meta={**dataset_meta, **meta}), path)
    return state


FIVE = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("ema", [False, True])
def test_start_from_other_classes(run: Callable[..., Any], tmp_path: Path, ema: bool) -> None:
    saved(tmp_path / "old.pth", FIVE)
    runner, log = run(tmp_path / "old.pth", ema)
    assert (runner.model.trunk.weight == 7).all() and (runner.model.queries.weight == 7).all()
    assert (runner.model.fc_cls.weight != 7).all()
    [line] = [line for line in log.splitlines() if "other classes" in line]
    assert "the classifier of 5 classes starts anew (fc_cls.weight, fc_cls.bias)" in line


def test_a_bare_state_dict(run: Callable[..., Any], tmp_path: Path) -> None:
    state = saved(tmp_path / "old.pth")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "bare.pth")
    runner, log = run(tmp_path / "bare.pth")
    assert (runner.model.trunk.weight == 7).all() and (runner.model.fc_cls.weight != 7).all()
    assert "the classifier starts anew" in log


def test_as_many_other_classes(run: Callable[..., Any], tmp_path: Path) -> None:
    saved(tmp_path / "old.pth", ("dog", "cat"), ToyWithClassifier(2))
    runner, log = run(tmp_path / "old.pth")
    assert (runner.model.fc_cls.weight == 7).all()
    assert (
        "as many classes with other names or in another order (dog, cat instead of cat, dog)" in log
    )
    saved(tmp_path / "old.pth", ("cat", "dog"), ToyWithClassifier(2))
    assert "classes" not in run(tmp_path / "old.pth")[1]


def test_missing_weights_are_named(run: Callable[..., Any], tmp_path: Path) -> None:
    state = saved(tmp_path / "old.pth", FIVE)
    del state["queries.weight"]
    torch.save(dict(state_dict=state, meta={}), tmp_path / "part.pth")
    assert "1 weights of the model are not in" in run(tmp_path / "part.pth")[1]


def test_what_does_not_fit_stops(run: Callable[..., Any], tmp_path: Path) -> None:
    saved(tmp_path / "wide.pth", FIVE, ToyWithClassifier(5, width=8))
    with pytest.raises(
        ValueError, match=r"checkpoint .*wide.pth: the checkpoint is of another model"
    ):
        run(tmp_path / "wide.pth")
    saved(tmp_path / "queries.pth", FIVE, ToyWithClassifier(5, queries=9))
    with pytest.raises(ValueError, match="queries.weight has shape"):
        run(tmp_path / "queries.pth")
    torch.save(dict(state_dict={"features.0": torch.ones(1)}), tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"no weight of the config's model .*features.0") as error:
        run(tmp_path / "foreign.pth")
    assert "\n" not in str(error.value)


def test_only_where_a_checkpoint_is_loaded() -> None:
    for cfg in (dict(load_from=None), dict(load_from="a.pth", resume=True)):
        accept_other_classes(cfg)
        assert "custom_hooks" not in cfg
    cfg = dict(load_from="a.pth", custom_hooks=[dict(type="Other")])
    accept_other_classes(cfg)
    accept_other_classes(cfg)
    assert cfg["custom_hooks"] == [dict(type="Other"), dict(type="OtherClassesHook")]


@pytest.mark.parametrize(
    ("head", "dropped"),
    [
        (
            dict(type="FCOSHead", in_channels=8, feat_channels=8, stacked_convs=1, norm_cfg=None),
            ["conv_cls.weight", "conv_cls.bias"],
        ),
        (
            dict(
                type="E2EMFHead",
                arch="26m",
                num_queries=10,
                embed_dims=16,
                num_heads=2,
                query_ffn_dims=16,
                side_ffn_dims=16,
                expansion=2,
                num_blocks=(1, 1, 1),
                train_cfg=None,
            ),
            ["fc_cls.weight", "fc_cls.bias"],
        ),
    ],
)
def test_real_heads(head: dict[str, Any], dropped: list[str]) -> None:
    from mmdet.registry import MODELS as DETECTORS
    from mmdet.utils import register_all_modules

    import mmdet_mobileformer  # noqa: F401

    register_all_modules()
    old, new = (DETECTORS.build(dict(head, num_classes=n)) for n in (80, 3))
    state = old.state_dict()
    assert drop_classifier(state, new.state_dict(), 80, 3) == dropped
    missing, unexpected = new.load_state_dict(state, strict=False)
    assert missing == dropped and not unexpected
