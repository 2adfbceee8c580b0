"""head_rivals.py, and the option `rivals` of the head."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.structures.bbox import bbox_overlaps  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from small_head import SMALL  # noqa: E402

from mmdet_mobileformer import E2EMFHead  # noqa: E402
from mmdet_mobileformer.head_rivals import (  # noqa: E402
    asking_former_heads,
    pairwise_iou,
    rival_bias,
)
from mmdet_mobileformer.layers import Former  # noqa: E402


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


def test_pairwise_iou_is_mmdet_s() -> None:
    corner = torch.rand(2, 7, 2)
    boxes = torch.cat((corner, corner + torch.rand(2, 7, 2) + 0.01), dim=-1)
    torch.testing.assert_close(pairwise_iou(boxes), bbox_overlaps(boxes, boxes))


def test_only_better_queries_whose_boxes_overlap_are_rivals() -> None:
    """Of three: two on one place, the second one with the better score, and one elsewhere."""
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]])
    bias = rival_bias(boxes.logit(), torch.tensor([[0.0, 1.0, 2.0]]), num_heads=8)
    assert bias.shape == (1, 8, 3, 4)
    assert asking_former_heads(8) == [False] * 2 + [True] * 6
    shares = bias.softmax(dim=-1)
    # The worse of the two reads the other one; the better, and the one elsewhere, read nothing.
    assert shares[0, 0, 0, 1] > 0.98
    assert shares[0, 0, 1, 3] > 0.99 and shares[0, 0, 2, 3] > 0.99
    torch.testing.assert_close(shares[0, 0], shares[0, 1])
    # The other heads read all three alike, and never nothing.
    torch.testing.assert_close(shares[0, 2:, :, :3], torch.full((6, 3, 3), 1 / 3))


def test_odds_are_one_to_one_at_the_overlap_from_which_on_a_query_is_seen() -> None:
    # Two squares of side 0.2 whose IoU is 0.4 when they are shifted by 0.2 * (1 - 4 / 7).
    shift = 0.2 * (1 - 2 * 0.4 / 1.4)
    boxes = torch.tensor([[[0.4, 0.4, 0.2, 0.2], [0.4 + shift, 0.4, 0.2, 0.2]]])
    bias = rival_bias(boxes.logit(), torch.tensor([[0.0, 9.0]]), num_heads=4)
    assert bias[0, 0, 0, 1].item() == pytest.approx(0.0, abs=1e-4)
    assert bias[0, 0, 0, 2].item() == 0.0
    assert bias[0, 1, 0, :2].tolist() == [0.0, 0.0]


def test_rounding_does_not_decide_who_is_better() -> None:
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2]]]).logit()
    scores = torch.tensor([[0.5, 0.5 + 1e-6]])
    found = [rival_bias(boxes, s, 4).softmax(dim=-1) for s in (scores, scores.flip(1))]
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_a_head_that_does_not_ask_reads_what_it_is_told_to() -> None:
    torch.manual_seed(0)
    former = Former(32, 4, 64, asking=(False, True, True, True))
    plain = Former(32, 4, 64)
    plain.load_state_dict(former.state_dict())
    tokens = torch.randn(1, 3, 32)
    # Reading nothing at all is a residual branch of the output's bias alone.
    nothing = torch.full((1, 4, 3, 4), -math.inf)
    nothing[..., -1] = 0
    updated = former.norm(tokens + former.out(torch.zeros_like(tokens)))
    hidden = torch.nn.functional.gelu(former.fc1(updated))
    torch.testing.assert_close(
        former(tokens, bias=nothing), former.ffn_norm(updated + former.fc2(hidden))
    )
    # And never reading nothing is what a Former does without a bias, where all heads ask.
    never = torch.zeros(1, 4, 3, 4)
    never[..., -1] = -math.inf
    torch.testing.assert_close(plain(tokens, bias=never), plain(tokens))
    assert not torch.allclose(former(tokens, bias=never), plain(tokens))
    # A token that may not read another does not do so because of a bias.
    apart = torch.tensor([[False, True, True], [True, False, False], [True, False, False]])
    other = tokens.clone()
    other[:, 1:] += 1
    first = former(tokens, None, apart, never)[:, 0]
    torch.testing.assert_close(former(other, None, apart, never)[:, 0], first)


def test_queries_learn_of_their_rivals() -> None:
    """With rivals a query's result changes when a better one comes to lie on it; other images' do not."""
    torch.manual_seed(0)
    model = E2EMFHead(rivals=True, **SMALL).eval()
    feats = [torch.randn(2, c, 64 // s, 64 // s) for c, s in ((24, 8), (64, 16), (96, 32))]
    with torch.no_grad():
        logits, _ = model(feats)
        model.grid[1] = model.grid[0]
        moved, _ = model(feats)
    assert not torch.allclose(logits[-1, :, 0], moved[-1, :, 0])
    # The same weights as without: nothing is learned for it.
    assert model.state_dict().keys() == E2EMFHead(**SMALL).state_dict().keys()
    model.train()
    with torch.enable_grad():
        total = sum(part.sum() for part in model(feats))
        total.backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.parameters())


def test_rivals_need_boxes() -> None:
    with pytest.raises(ValueError, match="rivals=True needs boxes"):
        E2EMFHead(rivals=True, **{**SMALL, "reference_boxes": False})
