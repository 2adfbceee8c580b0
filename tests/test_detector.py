"""detector.py: pictures smaller than the backbone takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402

import mmdet_mobileformer  # noqa: E402, F401


def predict(images: Tensor, valid: tuple[int, int]) -> Tensor:
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type="E2EMF",
            backbone=dict(type="MobileFormer", arch="26m", out_indices=(1, 2, 3)),
            bbox_head=dict(
                type="E2EMFHead", num_classes=3, arch="26m", num_blocks=(1, 1, 1), num_queries=5,
                embed_dims=32, num_heads=4, query_ffn_dims=32, side_ffn_dims=32,
            ),
            data_preprocessor=dict(type="DetDataPreprocessor"),
        )
    ).eval()
    shape = tuple(images.shape[-2:])
    meta = dict(img_shape=valid, batch_input_shape=shape, ori_shape=valid, scale_factor=(1.0, 1.0))
    with torch.no_grad():
        (sample,) = model.predict(images, [DetDataSample(metainfo=meta)])
    boxes: Tensor = sample.pred_instances.bboxes
    return boxes


@pytest.mark.parametrize("valid", [(5, 64), (64, 1), (1, 1), (31, 40)])
def test_a_picture_below_the_least_size_is_as_if_padded_with_anything(valid: tuple[int, int]) -> None:
    image = torch.randn(1, 3, *valid, generator=torch.Generator().manual_seed(1))
    canvas = torch.full((1, 3, max(32, valid[0]), max(32, valid[1])), 7.0)
    canvas[..., : valid[0], : valid[1]] = image
    boxes = predict(image, valid)
    assert boxes.isfinite().all() and torch.allclose(boxes, predict(canvas, valid), atol=1e-3)
    assert boxes[:, ::2].max() <= valid[1] and boxes[:, 1::2].max() <= valid[0]
