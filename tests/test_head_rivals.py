"""head_rivals.py, and the option `rivals` of the head."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.structures.bbox import bbox_overlaps  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from small_head import SMALL  # noqa: E402

from mmdet_mobileformer import E2EMFHead  # noqa: E402
from mmdet_mobileformer.head_rivals import (  # noqa: E402
    pairwise_iou,
    rival_shares,
    told_former_heads,
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
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]]).logit()
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    shares = rival_shares(boxes, scores)
    assert shares.shape == (1, 3, 3)
    # The worse of the two reads the other one; the better, and the one elsewhere, read nothing.
    assert shares[0, 0, 1] > 0.98 and shares[0, 0].sum() < 1
    assert shares[0, 1:].sum() < 0.02
    # What may not be read is not.
    apart = torch.tensor([[False, True, True], [True, False, False], [True, False, False]])
    assert rival_shares(boxes, scores, apart)[0, 0].sum() < 1e-10


def test_odds_are_one_to_one_at_the_overlap_from_which_on_a_query_is_seen() -> None:
    # Two squares of side 0.2 whose IoU is 0.6 when they are shifted by 0.2 * (1 - 3 / 4).
    shift = 0.2 * (1 - 2 * 0.6 / 1.6)
    boxes = torch.tensor([[[0.4, 0.4, 0.2, 0.2], [0.4 + shift, 0.4, 0.2, 0.2]]])
    shares = rival_shares(boxes.logit(), torch.tensor([[0.0, 9.0]]))
    assert shares[0, 0, 1].item() == pytest.approx(0.5, abs=1e-4)


def test_the_best_of_many_alike_has_no_rivals() -> None:
    boxes = torch.tensor([0.3, 0.3, 0.2, 0.2]).expand(1, 20, 4).logit()
    seen = rival_shares(boxes, torch.arange(20)[None] / 10).sum(dim=-1)
    assert seen[0, -1] < 0.02
    assert seen[0, :-1].min() > 0.9


def test_rounding_does_not_decide_who_is_better() -> None:
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2]]]).logit()
    scores = torch.tensor([[0.5, 0.5 + 1e-6]])
    found = [rival_shares(boxes, s) for s in (scores, scores.flip(1))]
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_one_head_in_four_is_told_to_read_the_rivals() -> None:
    assert [told_former_heads(heads) for heads in (2, 4, 8, 16)] == [1, 1, 2, 4]


def test_a_told_head_reads_what_it_is_told_to() -> None:
    torch.manual_seed(0)
    former = Former(32, 4, 64, told=1)
    plain = Former(32, 4, 64)
    plain.load_state_dict(former.state_dict())
    tokens, position = torch.randn(1, 3, 32), torch.randn(1, 3, 32)
    queries, keys = (x.unflatten(-1, (4, 8)).transpose(1, 2) for x in (
        plain.query(tokens + position) * 8**-0.5, tokens + position))
    weights = (queries @ keys.transpose(-1, -2)).softmax(dim=-1)
    # Told what the plain one asks for, it reads the same, and how much that is: all.
    def known(read: torch.Tensor) -> torch.Tensor:
        updated = former.norm(tokens + former.out(read))
        return former.ffn_norm(updated + former.fc2(torch.nn.functional.gelu(former.fc1(updated))))

    whole = (weights @ tokens.unflatten(-1, (4, 8)).transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(plain(tokens, position), known(whole))
    amount = torch.zeros(32)
    amount[:8] = 1
    told = former(tokens, position, shares=weights[:, 0])
    torch.testing.assert_close(told, known(whole + amount))
    half = torch.cat((whole[..., :8] / 2, whole[..., 8:]), dim=-1)
    told = former(tokens, position, shares=weights[:, 0] / 2)
    torch.testing.assert_close(told, known(half + amount / 2))
    # Told nothing, its channels are zeros, and what it would have asked for does not matter.
    former.query.weight.data[:8] = 7.0
    nothing = torch.zeros(1, 3, 3)
    unread = torch.cat((torch.zeros(1, 3, 8), whole[..., 8:]), dim=-1)
    torch.testing.assert_close(former(tokens, position, shares=nothing), known(unread))
    # The others do not read what they may not.
    apart = torch.tensor([[False, True, True], [True, False, False], [True, False, False]])
    other = tokens.clone()
    other[:, 1:] += 1
    first = former(tokens, None, apart, nothing)[:, 0]
    torch.testing.assert_close(former(other, None, apart, nothing)[:, 0], first)


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


@pytest.mark.parametrize("rivals, closing, calls", [(True, True, 2), (False, True, 1), (True, False, 1)])
def test_queries_share_once_more_after_the_closing_layer(rivals: bool, closing: bool, calls: int) -> None:
    model = E2EMFHead(rivals=rivals, closing=closing, **SMALL).eval()
    found: list[torch.Tensor] = []
    # By the layers that it has already.
    model.scales[-1].blocks[-1].former.register_forward_hook(lambda *_: found.append(_[2]))
    feats = [torch.randn(1, c, 64 // s, 64 // s) for c, s in ((24, 8), (64, 16), (96, 32))]
    with torch.no_grad():
        states, boxes = model.refine(feats)
    assert len(found) == calls
    assert torch.equal(found[-1], states[-1]) == (rivals or not closing)
    assert len(states) == len(boxes) == 4 + closing


def test_rivals_need_boxes() -> None:
    with pytest.raises(ValueError, match="rivals=True needs boxes"):
        E2EMFHead(rivals=True, **{**SMALL, "reference_boxes": False})
    with pytest.raises(ValueError, match="leaves none of 1 heads to ask: set num_heads=8"):
        E2EMFHead(rivals=True, **{**SMALL, "num_heads": 1})
