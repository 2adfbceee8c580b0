"""Any config of mmdet on Mobile-Former: what is rewritten, what stays, what is refused and why."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from mmengine.config import Config  # noqa: E402

from mmdet_mobileformer import ARCHS  # noqa: E402
from mmdet_mobileformer.swap import SwapRefusedError, swap_backbone  # noqa: E402
from mmdet_mobileformer.swap.config_file import differences, find_base, read_base  # noqa: E402
from mmdet_mobileformer.swap.rewrite import rewrite  # noqa: E402
from mmdet_mobileformer.swap.settings import NORMALISATION  # noqa: E402


def shipped(name: str) -> Config:
    return read_base(str(find_base(f"mmdet::{name}")))


def backbone(indices: tuple[int, ...]) -> dict[str, Any]:
    return dict(
        type="MobileFormer", arch="96m", dynamic_relu="first-token", out_indices=indices
    )


IMPORTS = dict(imports=["mmdet_mobileformer"], allow_failed_imports=False)

# The whole difference from the base, but for the imports.
CHANGES: dict[str, dict[str, Any]] = {
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": dict(
        backbone=backbone((0, 1, 2, 3)), neck=dict(in_channels=[16, 32, 88, 128])
    ),
    "yolo/yolov3_d53_8xb8-320-273e_coco.py": dict(
        backbone=backbone((1, 2, 3)),
        neck=dict(in_channels=[128, 88, 32]),
        data_preprocessor=dict(mean=NORMALISATION["mean"], std=NORMALISATION["std"]),
    ),
    "yolof/yolof_r50-c5_8xb8-1x_coco.py": dict(
        backbone=backbone((3,)),
        neck=dict(in_channels=128),
        data_preprocessor=NORMALISATION,
    ),
    "centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py": dict(
        backbone=backbone((0, 1, 2, 3)), neck=dict(in_channels=128)
    ),
    "ssd/ssd300_coco.py": dict(
        backbone=backbone((1, 2)),
        neck=dict(in_channels=(32, 88), out_channels=(32, 88, 512, 256, 256, 256)),
        bbox_head=dict(in_channels=(32, 88, 512, 256, 256, 256)),
        data_preprocessor=dict(std=NORMALISATION["std"]),
    ),
    "faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py": dict(
        backbone=backbone((2,)),
        rpn_head=dict(in_channels=88),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=88), bbox_head=dict(in_channels=88)
        ),
        data_preprocessor=NORMALISATION,
    ),
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py": dict(
        backbone=backbone((0, 1, 2, 3)), panoptic_head=dict(in_channels=[16, 32, 88, 128])
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_model_changes_in_these_places_only(name: str) -> None:
    base = shipped(name)
    before = copy.deepcopy(base.to_dict())
    swapped = swap_backbone(base, "96m")
    assert base.to_dict() == before, "the base is left as it was"
    changed = differences(before["model"], swapped.to_dict()["model"])
    assert changed["backbone"].pop("_delete_") is True
    assert changed == CHANGES[name]
    rest = differences(
        {k: v for k, v in before.items() if k not in ("model", "optim_wrapper")},
        {k: v for k, v in swapped.to_dict().items() if k not in ("model", "optim_wrapper")},
    )
    assert rest == dict(custom_imports=IMPORTS)


def test_mmdet_s_names_and_paths_are_read() -> None:
    name = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    assert swap_backbone(name, "26m").model == swap_backbone(find_base(name), "26m").model


@pytest.mark.parametrize("arch", ARCHS)
def test_every_arch(arch: str) -> None:
    cfg = swap_backbone(shipped("retinanet/retinanet_r50_fpn_1x_coco.py"), arch)
    assert cfg.model.backbone.arch == arch
    assert cfg.model.neck.in_channels == list(ARCHS[arch].out_channels)


def test_mobileformer_fpn_in_a_retinanet() -> None:
    cfg = swap_backbone(
        shipped("retinanet/retinanet_r50_fpn_1x_coco.py"), "96m", neck="mobileformer"
    )
    # The neck starts at stride 8, so nothing finer is asked for.
    assert cfg.model.backbone.out_indices == cfg.model.neck.out_indices == (1, 2, 3)
    assert cfg.model.neck.type == "MobileFormerFPN" and cfg.model.neck.arch == "96m"
    assert "in_channels" not in cfg.model.neck


def test_a_semi_supervised_detector_is_swapped_inside() -> None:
    cfg = swap_backbone(
        shipped("soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"), "96m"
    )
    assert cfg.model.detector.backbone == backbone((0, 1, 2, 3))
    assert cfg.model.detector.neck.in_channels == [16, 32, 88, 128]
    inner = cfg.model.data_preprocessor.data_preprocessor
    assert {key: inner[key] for key in NORMALISATION} == NORMALISATION


def test_classes_in_place_of_names(tmp_path: Path) -> None:
    file = tmp_path / "base.py"
    file.write_text(
        "from mmdet.models import FPN, ResNet, RetinaHead, RetinaNet\n"
        "model = dict(type=RetinaNet, backbone=dict(type=ResNet, depth=18),\n"
        "    neck=dict(type=FPN, in_channels=[64, 128, 256, 512], out_channels=8, num_outs=4),\n"
        "    bbox_head=dict(type=RetinaHead, num_classes=3, in_channels=8))\n"
    )
    cfg = swap_backbone(file, "96m")
    assert cfg.model.backbone == backbone((0, 1, 2, 3))
    assert cfg.model.neck.in_channels == [16, 32, 88, 128]
    assert swap_backbone(file, "96m", neck="mobileformer").model.neck.type == "MobileFormerFPN"


def test_a_teacher_keeps_its_backbone() -> None:
    cfg = swap_backbone(shipped("lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py"), "96m")
    assert cfg.model.backbone.type == "MobileFormer"
    assert cfg.model.teacher_backbone.type == "ResNet"
    assert cfg.model.teacher_neck.in_channels == [256, 512, 1024, 2048]


def test_from_scratch_and_from_a_checkpoint(tmp_path: Path) -> None:
    base = shipped("detr/detr_r50_8xb2-150e_coco.py")
    base.model.backbone.frozen_stages, base.model.backbone.with_cp = 1, True
    scratch = swap_backbone(base, "96m")
    assert scratch.model.backbone == dict(backbone((3,)), with_cp=True)
    assert scratch.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 1.0

    file = tmp_path / "imagenet.pth"
    file.touch()
    tuned = swap_backbone(base, "96m", pretrained=str(file))
    assert tuned.model.backbone == dict(
        backbone((3,)),
        with_cp=True,
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint=str(file)),
    )
    assert tuned.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    with pytest.raises(FileNotFoundError, match=r"pretrained='.*none\.pth' does not exist"):
        swap_backbone(base, "96m", pretrained=str(tmp_path / "none.pth"))


def test_a_checkpoint_of_the_whole_detector_goes() -> None:
    swap = rewrite(shipped("cityscapes/faster-rcnn_r50_fpn_1x_cityscapes.py"), "96m")
    assert swap.config["load_from"] is None
    assert any(change.startswith("load_from https://") for change in swap.changes)


def test_a_backbone_that_is_not_installed_is_judged_by_its_neck() -> None:
    base = shipped("timm_example/retinanet_timm-tv-resnet50_fpn_1x_coco.py")
    base.model.backbone.type = "notinstalled.Net"
    base.custom_imports = dict(imports=["notinstalled.models"], allow_failed_imports=False)
    swap = rewrite(base, "96m")
    assert "notinstalled.Net cannot be built here" in swap.changes[0]
    assert swap.config["model"]["backbone"]["out_indices"] == (0, 1, 2, 3)
    assert swap.config["custom_imports"] == IMPORTS

    base.model.neck = dict(type="DilatedEncoder", in_channels=2048)
    with pytest.raises(SwapRefusedError, match="notinstalled.Net gives cannot be found out"):
        rewrite(base, "96m")


REFUSED = {
    "faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py": r"shared_head \(ResLayer\) is the old",
    "tridentnet/tridentnet_r50-caffe_1x_coco.py": "TridentResNet gives 3 maps per image",
    "detectors/detectors_cascade-rcnn_r50_1x_coco.py": "neck.rfp_backbone is a second DetectoRS",
    "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py": "maps of stride 4, 4, and Mobile",
    "rtmdet/rtmdet_x_p6_4xb8-300e_coco.py": "CSPNeXt gives a map of stride 64",
    "glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py": r"GLIP has a text backbone \(Bert",
    "grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg_cap4m.py": "has a text backbone",
    "qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py": "QDTrack is a tracker: swap the backbone",
    "mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py": "Mask2FormerVideo is a tracker",
    "reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py": "BaseReID is no detector",
    "misc/d2_retinanet_r50-caffe_fpn_ms-90k_coco.py": "takes its backbone from another library",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(SwapRefusedError, match=REFUSED[name]) as caught:
        swap_backbone(shipped(name), "96m")
    assert "\n" not in str(caught.value)


def test_a_wrong_argument_is_named() -> None:
    base = shipped("retinanet/retinanet_r50_fpn_1x_coco.py")
    with pytest.raises(ValueError, match="arch '100m' is unknown: choose one of"):
        swap_backbone(base, "100m")
    with pytest.raises(ValueError, match="neck is 'fpn': choose 'keep' or 'mobileformer'"):
        swap_backbone(base, "96m", neck="fpn")
    with pytest.raises(ValueError, match="the config has no `model`"):
        swap_backbone(Config(dict(a=1)), "96m")
    with pytest.raises(SwapRefusedError, match="Unheard is registered neither by mmdet nor"):
        swap_backbone(Config(dict(model=dict(type="Unheard"))), "96m")
