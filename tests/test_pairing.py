"""Pairings of backbone, neck and head as a config shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmdet_mobileformer.models import DETECTORS, config_path
from mmdet_mobileformer.pairing import check_pairing

ROOT = Path(__file__).resolve().parents[1]


def detector(arch: str = "96m", **parts: Any) -> Config:
    backbone = dict(type="MobileFormer", arch=arch, out_indices=(1, 2, 3))
    return Config(dict(model=dict(type="X", backbone=backbone, **parts)))


FPN_96M = dict(type="MobileFormerFPN", arch="96m")


@pytest.mark.parametrize("name", [model.config for model in DETECTORS])
def test_every_config_of_ours_is_paired(name: str) -> None:
    check_pairing(Config.fromfile(config_path(name)))


@pytest.mark.parametrize(
    "parts",
    [
        dict(neck=FPN_96M),
        dict(neck=[FPN_96M, dict(type="DyHead", in_channels=256)]),
        dict(neck=dict(type="FPN", in_channels=[32, 88, 128])),
        # mmdet's YOLOV3Neck counts from coarse to fine.
        dict(neck=dict(type="YOLOV3Neck", in_channels=[128, 88, 32])),
        dict(neck=dict(type="CTResNetNeck", in_channels=512)),
        dict(bbox_head=dict(type="mmdet.E2EMFHead", arch="96m")),
        # The head reads the neck, so its channels are not the backbone's.
        dict(neck=FPN_96M, bbox_head=dict(type="E2EMFHead", in_channels=[256, 256, 256])),
        dict(),
    ],
)
def test_good_pairings_pass(parts: dict[str, Any]) -> None:
    check_pairing(detector(**parts))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            dict(neck=dict(type="MobileFormerFPN", arch="508m")),
            r"model.neck MobileFormerFPN\(arch='508m'\) expects features of \[72, 176, 240\]"
            r" channels, but model.backbone MobileFormer\(arch='96m', out_indices=.1, 2, 3.\)"
            r" gives \[32, 88, 128\]: give both the same arch",
        ),
        (dict(neck=dict(**FPN_96M, out_indices=(2, 3))), r"expects features of \[88, 128\]"),
        (dict(neck=dict(type="FPN", in_channels=[256, 512, 1024])), r"neck FPN.*\[256, 512, 1024\]"),
        (dict(neck=[dict(type="MobileFormerFPN", arch="26m")]), r"neck MobileFormerFPN"),
        (dict(bbox_head=dict(type="E2EMFHead", arch="52m")), r"bbox_head E2EMFHead\(arch='52m'\)"),
        (dict(bbox_head=dict(type="E2EMFHead", arch="96m", scales=(32, 16))), r"\[88, 128\]"),
        (dict(aux_neck=dict(type="MobileFormerFPN", arch="26m")), r"model.aux_neck"),
        (dict(neck=dict(type="MobileFormerFPN", arch="97m")), r"'97m' is unknown"),
    ],
)
def test_wrong_pairings_are_one_sentence(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_pairing(detector(**parts))
    assert "\n" not in str(error.value)


def test_wrapped_detectors_are_looked_at() -> None:
    wrong = detector(neck=dict(type="MobileFormerFPN", arch="26m")).model
    with pytest.raises(ValueError, match=r"model.module.neck"):
        check_pairing(dict(model=dict(type="DetTTAModel", module=wrong)))


def test_other_backbones_are_none_of_its_business() -> None:
    model = dict(backbone=dict(type="ResNet", depth=50), neck=dict(type="FPN", in_channels=[1, 2]))
    check_pairing(dict(model=model))


def test_a_teacher_s_neck_reads_the_teacher_s_backbone() -> None:
    check_pairing(detector(neck=FPN_96M, teacher_neck=dict(type="FPN", in_channels=[256, 512])))
