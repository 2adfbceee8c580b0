"""What belonged to the old backbone's checkpoint leaves the config, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.swap.settings import (  # noqa: E402
    NORMALISATION,
    adapt_optimizer,
    forget_checkpoints,
    import_package,
    normalise,
)

FILE = dict(type="Pretrained", checkpoint="torchvision://resnet50")


def test_checkpoints_of_the_whole_detector_go() -> None:
    detector: dict[str, Any] = dict(type="Inner", init_cfg=FILE, neck=dict(init_cfg=FILE))
    config: dict[str, Any] = dict(
        load_from="https://x/y.pth", resume=True, model=dict(type="Outer", detector=detector)
    )
    changes = forget_checkpoints(config, detector)
    assert config["load_from"] is None and detector["init_cfg"] is None
    assert config["resume"] is True and detector["neck"] == dict(init_cfg=FILE)
    assert [change.split(" dropped")[0] for change in changes] == [
        "load_from https://x/y.pth",
        "init_cfg of Inner",
    ]
    kaiming = dict(type="Kaiming", layer="Conv2d")
    plain: dict[str, Any] = dict(model=dict(type="Outer", init_cfg=kaiming))
    assert forget_checkpoints(plain, plain["model"]) == []
    assert plain["model"]["init_cfg"] == kaiming


def test_every_preprocessor_gets_the_normalisation() -> None:
    caffe = dict(
        type="DetDataPreprocessor",
        mean=[103.53, 116.28, 123.675],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    )
    model: dict[str, Any] = dict(
        data_preprocessor=dict(type="MultiBranchDataPreprocessor", data_preprocessor=dict(caffe)),
        detector=dict(data_preprocessor=dict(type="DetDataPreprocessor", rgb_to_bgr=True)),
    )
    assert len(normalise(model)) == 1
    outer = model["data_preprocessor"]
    assert outer["data_preprocessor"] == dict(caffe, **NORMALISATION)
    assert set(outer) == {"type", "data_preprocessor"}
    assert model["detector"]["data_preprocessor"] == dict(
        type="DetDataPreprocessor", rgb_to_bgr=False, **NORMALISATION
    )
    assert normalise(model) == []


def test_the_backbone_s_small_learning_rate_goes_with_its_checkpoint() -> None:
    def config(lr_mult: float) -> dict[str, Any]:
        keys = dict(backbone=dict(lr_mult=lr_mult, decay_mult=1.0), bias=dict(lr_mult=2.0))
        return dict(optim_wrapper=dict(type="OptimWrapper", paramwise_cfg=dict(custom_keys=keys)))

    scratch = config(0.1)
    assert len(adapt_optimizer(scratch, from_scratch=True)) == 1
    assert scratch == config(1.0)
    tuned = config(0.1)
    assert adapt_optimizer(tuned, from_scratch=False) == [] and tuned == config(0.1)
    assert adapt_optimizer(dict(optim_wrapper=None), from_scratch=True) == []


def test_a_learning_rate_per_layer_of_convnext_goes() -> None:
    config: dict[str, Any] = dict(
        optim_wrapper=dict(
            type="OptimWrapper",
            constructor="LearningRateDecayOptimizerConstructor",
            paramwise_cfg=dict(decay_rate=0.95, decay_type="layer_wise", num_layers=6),
            optimizer=dict(type="AdamW", lr=1e-4),
        )
    )
    assert len(adapt_optimizer(config, from_scratch=False)) == 1
    assert config["optim_wrapper"] == dict(
        type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4)
    )


@pytest.mark.parametrize(
    "found, neck, imports",
    [
        (None, "FPN", ["mmdet_mobileformer"]),
        (["own.models"], "FPN", ["own.models", "mmdet_mobileformer"]),
        (["mmdet_mobileformer"], "FPN", ["mmdet_mobileformer"]),
        ("mmpretrain.models", "FPN", ["mmdet_mobileformer"]),
        (["mmpretrain.models"], "mmpretrain.Neck", ["mmpretrain.models", "mmdet_mobileformer"]),
    ],
)
def test_imports(found: Any, neck: str, imports: list[str]) -> None:
    config: dict[str, Any] = dict(model=dict(backbone=dict(type="MobileFormer"), neck=dict(type=neck)))
    if found is not None:
        config["custom_imports"] = dict(imports=found, allow_failed_imports=True)
    import_package(config, "mmpretrain.ConvNeXt")
    assert config["custom_imports"] == dict(imports=imports, allow_failed_imports=False)
