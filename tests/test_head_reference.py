"""head_reference.py: reference boxes and where the heads look."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.models.layers import SinePositionalEncoding  # noqa: E402

from mmdet_mobileformer.head_reference import (  # noqa: E402
    LOOKS,
    TOLD,
    Place,
    Queries,
    embed_centres,
    embed_sizes,
    grid_boxes,
    move_boxes,
    pyramid_boxes,
    told_heads,
)


def padded(height: int, width: int, valid: tuple[int, int]) -> torch.Tensor:
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, : valid[0], : valid[1]] = False
    return mask


@pytest.mark.parametrize("count", [1, 7, 49, 100])
def test_the_grid_covers_the_image(count: int) -> None:
    boxes = grid_boxes(count).sigmoid()
    assert boxes.shape == (count, 4)
    assert len({tuple(box) for box in boxes[:, :2].tolist()}) == count
    x1y1, x2y2 = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    if count == 49:
        torch.testing.assert_close(boxes[:, :2].mean(0), torch.tensor([0.5, 0.5]))
        assert (x1y1.min() < 0.01) and (x2y2.max() > 0.99)


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_the_pyramid_has_boxes_of_several_sizes(count: int) -> None:
    boxes = pyramid_boxes(count).sigmoid()
    assert boxes.shape == (count, 4) and torch.isfinite(pyramid_boxes(count)).all()
    if count == 100:
        sizes = {round(float(side), 2): int((boxes[:, 2] == side).sum()) for side in boxes[:, 2]}
        assert sorted(sizes) == [0.12, 0.3, 0.6]
        assert [sizes[side] for side in sorted(sizes)] == [50, 30, 20]
        for side in boxes[:, 2].unique():
            centres = boxes[boxes[:, 2] == side][:, :2]
            assert centres.min() < 0.2 and centres.max() > 0.8


def test_deltas_of_boxes_are_those_of_faster_rcnn() -> None:
    """mmdet's coder is the reference, wherever the box lies in the image."""
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
    from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh

    torch.manual_seed(0)
    boxes = torch.rand(50, 4, dtype=torch.float64) * 0.3 + 0.3
    change = torch.randn(50, 4, dtype=torch.float64) * 0.4
    coder = DeltaXYWHBBoxCoder(clip_border=False)
    expected = bbox_xyxy_to_cxcywh(coder.decode(bbox_cxcywh_to_xyxy(boxes), change))
    found = move_boxes(boxes.logit(), change, "box").sigmoid()
    inside = (expected > 1e-3).all(1) & (expected < 1 - 1e-3).all(1)
    assert inside.sum() > 40
    torch.testing.assert_close(found[inside], expected[inside])
    unchanged = move_boxes(boxes.logit(), torch.zeros_like(change), "box")
    torch.testing.assert_close(unchanged, boxes.logit())
    torch.testing.assert_close(move_boxes(boxes.logit(), change, "logit"), boxes.logit() + change)


def test_sizes_are_told_apart_whatever_the_place() -> None:
    boxes = torch.rand(1, 200, 4, dtype=torch.float64).clamp(0.01, 0.99)
    one = embed_sizes(boxes.logit(), 64)
    assert one.shape == (1, 200, 64) and one.abs().max() <= 1
    moved = torch.cat((1 - boxes[..., :2], boxes[..., 2:]), dim=-1)
    torch.testing.assert_close(embed_sizes(moved.logit(), 64), one)
    # A linear layer reads the logarithm of the sides out of it.
    sides = boxes[0, :, 2:].log2()
    inputs = torch.cat((one[0], torch.ones(200, 1, dtype=torch.float64)), dim=1)
    # gelsd, as neighbouring waves are much alike.
    read = inputs @ torch.linalg.lstsq(inputs, sides, driver="gelsd").solution
    assert (read - sides).abs().max() < 1e-6
    # The smallest and largest that a box may have.
    assert embed_sizes(torch.tensor([[[0.0, 0.0, -80.0, 80.0]]]), 8).isfinite().all()


def test_moved_boxes_stay_in_the_image_and_finite() -> None:
    boxes = grid_boxes(9).requires_grad_()
    for size in (1e-3, 1.0, 1e3, 1e30):
        change = torch.randn(9, 4) * size
        moved = move_boxes(boxes, change, "box")
        assert moved.isfinite().all()
        assert moved.sigmoid().min() > 0 and moved.sigmoid().max() < 1
        assert torch.autograd.grad(moved.sum(), boxes)[0].isfinite().all()


@pytest.mark.parametrize("kind", LOOKS)
@pytest.mark.parametrize("valid", [(6, 8), (4, 5)])
def test_a_look_is_the_gaussian_around_its_place(valid: tuple[int, int], kind: str) -> None:
    height, width = 6, 8
    mask = None if valid == (height, width) else padded(height, width, valid)
    place = Place.of_map(mask, torch.zeros(1, 3, height, width))
    boxes = torch.tensor([[[0.4, 0.3, 0.5, 0.6]]])
    query, key = place.gaussians(boxes, len(LOOKS[kind]), kind)
    scores = (query @ key).unflatten(-1, (height, width))[0, :, 0, : valid[0], : valid[1]]
    x = (torch.arange(valid[1]) + 0.5) / valid[1]
    y = (torch.arange(valid[0]) + 0.5) / valid[0]
    for score, (dx, dy, sx, sy, looks) in zip(scores, LOOKS[kind]):
        sx, sy = max(sx * 0.5, 0.5 / valid[1]), max(sy * 0.6, 0.5 / valid[0])
        gaussian = -0.5 * ((x - (0.4 + dx * 0.5)) / sx)[None].square()
        gaussian = (gaussian - 0.5 * ((y - (0.3 + dy * 0.6)) / sy)[:, None].square()) * looks
        # Equal up to a constant, which a softmax over positions does not see.
        torch.testing.assert_close(score - score.max(), gaussian - gaussian.max())


def test_only_a_fixed_look_has_heads_that_are_told_where_to_read() -> None:
    assert told_heads("middle", 8) == told_heads("edges", 8) == 0
    assert [told_heads("fixed", heads) for heads in (4, 8, 16)] == [3, 6, 12]
    # They look alike.
    assert {len(set(places[: TOLD.get(kind, 0)])) for kind, places in LOOKS.items()} <= {0, 1}


@pytest.mark.parametrize("num_heads", [4, 8])
def test_told_heads_read_the_gaussian_of_the_valid_cells(num_heads: int) -> None:
    mask = padded(6, 8, (4, 5))
    place = Place.of_map(mask, torch.zeros(1, 3, 6, 8))
    boxes = torch.rand(1, 5, 4) * 0.5 + 0.1
    queries, keys = place.gaussians(boxes, num_heads, "fixed")
    look = place.look(boxes, num_heads, "fixed", mask)
    told = told_heads("fixed", num_heads)
    torch.testing.assert_close(look.queries, queries[:, told:])
    scores = (queries @ keys).masked_fill(mask.flatten(1)[:, None, None], -torch.inf)
    for head in range(told):
        torch.testing.assert_close(look.shares, scores[:, head].softmax(dim=-1))
    assert place.look(boxes, num_heads, "edges", mask).shares is None


def test_looks_do_not_depend_on_padding() -> None:
    boxes = torch.rand(1, 5, 4) * 0.5 + 0.1
    alone = Place.of_map(None, torch.zeros(1, 1, 4, 5))
    beside = Place.of_map(padded(7, 9, (4, 5)), torch.zeros(1, 1, 7, 9))
    query, key = alone.gaussians(boxes, 8, "edges")
    padded_query, padded_key = beside.gaussians(boxes, 8, "edges")
    torch.testing.assert_close(query, padded_query)
    torch.testing.assert_close(
        key.unflatten(-1, (4, 5)), padded_key.unflatten(-1, (7, 9))[..., :4, :5]
    )


def test_centres_of_cells_are_embedded_as_the_cells() -> None:
    encoding = SinePositionalEncoding(16, normalize=True)
    feat = torch.zeros(1, 1, 3, 4)
    x, y = (torch.arange(4) + 0.5) / 4, (torch.arange(3) + 0.5) / 3
    centres = torch.stack((x.repeat(3), y.repeat_interleave(4)), dim=1)
    boxes = torch.cat((centres, torch.full((12, 2), 0.1)), dim=1)[None]
    expected = encoding(None, feat)[0].flatten(1).t()
    found = embed_centres(boxes, encoding, Place.of_map(None, feat))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_groups_of_queries_stay_apart() -> None:
    def group(count: int, apart: torch.Tensor | None = None) -> Queries:
        return Queries(
            torch.randn(2, count, 8), torch.randn(2, count, 8), torch.randn(2, count, 4), apart
        )

    inner = torch.tensor([[False, True], [True, False]])
    both = group(2, inner).followed_by(group(3))
    assert both.content.shape == both.position.shape == (2, 5, 8)
    assert both.reference is not None and both.reference.shape == (2, 5, 4)
    expected = torch.ones(5, 5, dtype=torch.bool)
    expected[:2, :2] = inner
    expected[2:, 2:] = False
    assert torch.equal(both.apart, expected)
