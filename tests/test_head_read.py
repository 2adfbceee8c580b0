"""head_read.py, and the option `read_boxes` of the head."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.utils import register_all_modules  # noqa: E402
from small_head import SMALL  # noqa: E402

from mmdet_mobileformer import E2EMFHead  # noqa: E402
from mmdet_mobileformer.head_read import BoxReader, mean_with_read  # noqa: E402
from mmdet_mobileformer.head_reference import Place  # noqa: E402


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


def features(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.randn(2, c, h, w) for c, (h, w) in zip((24, 64, 96), sizes)]


def distances_from_a_channel() -> BoxReader:
    """A reader that takes all four distances from the first channel, in cells."""
    reader = BoxReader(4)
    torch.nn.init.zeros_(reader.sides.weight)
    assert reader.sides.bias is not None
    torch.nn.init.zeros_(reader.sides.bias)
    reader.sides.weight.data[:, 0, 1, 1] = 1.0
    return reader


def test_a_box_is_read_at_the_middle_of_the_querys_own() -> None:
    """Two images, cells of an eighth and of a quarter; boxes of two cells at one place only."""
    reader = distances_from_a_channel()
    x = torch.full((2, 4, 4, 8), -100.0)
    x[:, 0, 1, 2] = 2.0
    # The middle of that cell, and a place far off, where boxes have no size.
    here = torch.tensor([2.5 / 8, 1.5 / 4, 0.3, 0.1])
    far = torch.tensor([6.5 / 8, 2.5 / 4, 0.3, 0.1])
    reference = torch.stack((here, far)).expand(2, -1, -1).logit()
    place = Place.of_map(None, x)
    mean = mean_with_read(reader(x, None, place), None, place, reference, reference)
    found = mean.sigmoid() * 2 - reference.sigmoid()
    # Of a Gaussian with a deviation of 0.4 cells, on cells in both directions.
    share = 1 / sum(math.exp(-0.5 * (k / 0.4) ** 2) for k in range(-3, 4)) ** 2
    side = 2 * math.log(1 + math.e**2) * share
    torch.testing.assert_close(found[:, 0, :2], here[:2].expand(2, -1), atol=1e-4, rtol=0)
    wanted = torch.tensor([side / 8, side / 4]).expand(2, -1)
    torch.testing.assert_close(found[:, 0, 2:], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:, 1, :2], far[:2].expand(2, -1), atol=1e-4, rtol=0)
    assert found[:, 1, 2:].abs().max() < 1e-3


def test_padding_is_not_read() -> None:
    reader = BoxReader(8)
    torch.nn.init.normal_(reader.sides.weight)
    x = torch.randn(1, 8, 4, 5)
    padded = torch.full((1, 8, 6, 9), 50.0)
    padded[..., :4, :5] = x
    mask = torch.ones(1, 6, 9, dtype=torch.bool)
    mask[:, :4, :5] = False
    reference, told = torch.randn(2, 1, 7, 4)
    found = []
    for image, padding in ((x, None), (padded, mask)):
        place = Place.of_map(padding, image)
        found.append(mean_with_read(reader(image, padding, place), padding, place, reference, told))
    torch.testing.assert_close(*found)


def test_blocks_of_the_finest_scale_and_the_closing_one_read() -> None:
    torch.manual_seed(0)
    plain, reading = E2EMFHead(**SMALL).eval(), E2EMFHead(read_boxes=True, **SMALL).eval()
    missing = reading.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["reader.sides.weight", "reader.sides.bias"]
    feats = features((8, 8), (4, 4), (2, 2))
    with torch.no_grad():
        _, boxes = plain(feats)
        _, found = reading(feats)
    assert torch.equal(boxes[:3], found[:3])
    assert all((boxes[k] - found[k]).abs().min() > 0 for k in (3, 4))
    reading.train()
    _, found = reading(feats)
    found[4].sum().backward()
    assert reading.reader is not None and reading.reader.sides.weight.grad is not None
    assert reading.reader.sides.weight.grad.abs().sum() > 0


def test_boxes_do_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    model = E2EMFHead(read_boxes=True, **SMALL).eval()
    torch.nn.init.normal_(model.reader.sides.weight)
    feats = features((8, 8), (4, 4), (2, 2))
    wide = [torch.randn(*f.shape[:2], f.shape[2], 2 * f.shape[3]) for f in feats]
    for feat, more in zip(feats, wide):
        more[..., : feat.shape[3]] = feat
    mask = torch.zeros(2, 64, 128, dtype=torch.bool)
    mask[..., 64:] = True
    with torch.no_grad():
        for alone, beside in zip(model(feats), model(wide, mask)):
            torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)
