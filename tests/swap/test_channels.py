"""Necks and heads get the channels of the new backbone, wherever the old ones stood."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from mmdet.utils import register_all_modules  # noqa: E402

from mmdet_mobileformer.swap import SwapRefusedError  # noqa: E402
from mmdet_mobileformer.swap.channels import (  # noqa: E402
    adapt_readers,
    in_channels_of_reader,
    put_mobileformer_fpn,
)
from mmdet_mobileformer.swap.levels import Levels  # noqa: E402

OLD = Levels((256, 512, 1024), (8, 16, 32))
NEW = Levels((32, 88, 128), (8, 16, 32))
ONE, NEW_ONE = Levels((2048,), (16,)), Levels((88,), (16,))


@pytest.fixture(autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=True)


def detector(neck: Any = None, **heads: Any) -> dict[str, Any]:
    return dict(type="Some", backbone=dict(type="ResNet"), **({"neck": neck} if neck else {}), **heads)


def test_a_neck_s_list_keeps_its_order_and_kind() -> None:
    fine = detector(dict(type="FPN", in_channels=[256, 512, 1024], out_channels=256, num_outs=3))
    assert adapt_readers(fine, OLD, NEW) == [
        "neck FPN: in_channels [256, 512, 1024] -> [32, 88, 128]"
    ]
    # Coarse to fine, and an out_channels that begins with one of the old numbers.
    coarse = detector(
        dict(type="YOLOV3Neck", num_scales=3, in_channels=(1024, 512, 256), out_channels=[512, 256, 128])
    )
    adapt_readers(coarse, OLD, NEW)
    assert coarse["neck"]["in_channels"] == (128, 88, 32)
    assert coarse["neck"]["out_channels"] == [512, 256, 128]


def test_a_neck_with_one_number_reads_the_coarsest_map() -> None:
    one = detector(dict(type="DilatedEncoder", in_channels=1024, out_channels=1024))
    adapt_readers(one, OLD, NEW)
    assert (one["neck"]["in_channels"], one["neck"]["out_channels"]) == (128, 1024)


def test_the_first_of_several_necks_reads_the_backbone() -> None:
    several = detector(
        [
            dict(type="FPN", in_channels=[256, 512, 1024], out_channels=256, num_outs=5),
            dict(type="BFP", in_channels=256, num_levels=5),
        ]
    )
    adapt_readers(several, OLD, NEW)
    assert [neck["in_channels"] for neck in several["neck"]] == [[32, 88, 128], 256]


def test_heads_follow_a_neck_that_passes_maps_on() -> None:
    old, new = Levels((512, 1024), (8, 16)), Levels((32, 88), (8, 16))
    widths = (512, 1024, 512, 256)
    ssd = detector(
        dict(
            type="SSDNeck",
            in_channels=(512, 1024),
            out_channels=widths,
            level_strides=(2, 2),
            level_paddings=(1, 1),
        ),
        bbox_head=dict(type="SSDHead", in_channels=widths, num_classes=80),
    )
    changes = adapt_readers(ssd, old, new)
    assert ssd["neck"]["in_channels"] == (32, 88)
    assert ssd["neck"]["out_channels"] == ssd["bbox_head"]["in_channels"] == (32, 88, 512, 256)
    assert "bbox_head.in_channels (512, 1024, 512, 256) -> (32, 88, 512, 256)" in changes


def test_heads_without_a_neck_read_the_backbone() -> None:
    dc5 = detector(
        rpn_head=dict(type="RPNHead", in_channels=2048, feat_channels=2048),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=2048, featmap_strides=[16]),
            bbox_head=[dict(in_channels=2048, fc_out_channels=2048)],
        ),
        train_cfg=dict(in_channels=2048),
    )
    adapt_readers(dc5, ONE, NEW_ONE)
    roi = dc5["roi_head"]
    assert (dc5["rpn_head"]["in_channels"], dc5["rpn_head"]["feat_channels"]) == (88, 2048)
    assert roi["bbox_roi_extractor"] == dict(out_channels=88, featmap_strides=[16])
    assert roi["bbox_head"] == [dict(in_channels=88, fc_out_channels=2048)]
    assert dc5["train_cfg"] == dict(in_channels=2048)

    # With several maps a single number may be any other part's width.
    query = detector(head=dict(in_channels=[256, 512, 1024], decoder=dict(in_channels=1024)))
    adapt_readers(query, OLD, NEW)
    assert query["head"] == dict(in_channels=[32, 88, 128], decoder=dict(in_channels=1024))


def test_what_names_no_channels_is_refused() -> None:
    with pytest.raises(SwapRefusedError, match="no argument of the neck Own names the 256, 512, 10"):
        adapt_readers(detector(dict(type="Own", width=256)), OLD, NEW)
    with pytest.raises(SwapRefusedError, match="Some has no neck, and none of its heads names the 2"):
        adapt_readers(detector(bbox_head=dict(type="Own")), OLD, NEW)


def test_mobileformer_fpn_takes_an_fpn_s_place() -> None:
    fpn = dict(
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=64,
        num_outs=5,
        start_level=1,
        add_extra_convs="on_input",
        relu_before_extra_convs=True,
    )
    single = detector(copy.deepcopy(fpn))
    indices, changes = put_mobileformer_fpn(single, "96m", (0, 1, 2, 3))
    assert indices == (1, 2, 3) and len(changes) == 1
    assert single["neck"] == dict(
        type="MobileFormerFPN",
        arch="96m",
        out_indices=(1, 2, 3),
        out_channels=64,
        num_outs=5,
        add_extra_convs="on_output",
        relu_before_extra_convs=True,
    )
    # Faster R-CNN's P6 comes from pooling, and a second neck stays.
    plain = {k: fpn[k] for k in ("type", "in_channels", "out_channels", "num_outs")}
    listed = detector([plain, dict(type="BFP", in_channels=64)])
    indices, _ = put_mobileformer_fpn(listed, "96m", (0, 1, 2, 3))
    assert indices == (0, 1, 2, 3)
    assert listed["neck"][0]["add_extra_convs"] is False
    assert listed["neck"][1] == dict(type="BFP", in_channels=64)

    for neck, name in ((dict(type="PAFPN", in_channels=[1]), "PAFPN"), (None, "no neck")):
        with pytest.raises(SwapRefusedError, match=f"Some has {name} here: use --neck keep"):
            put_mobileformer_fpn(detector(neck), "96m", (0,))


def test_the_reader_s_own_word_about_its_channels() -> None:
    assert in_channels_of_reader(detector(dict(type="FPN", in_channels=[1, 2]))) == [1, 2]
    assert in_channels_of_reader(detector(panoptic_head=dict(in_channels=(3,)))) == (3,)
    assert in_channels_of_reader(detector(dict(type="DilatedEncoder", in_channels=4))) is None
    assert in_channels_of_reader(detector()) is None
