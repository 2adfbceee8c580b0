"""layers/attention.py: both forms of the bridges compute the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from mmdet_mobileformer.layers import Former, FormerToMobile, Look, MobileToFormer


def asked(bridge: MobileToFormer, inputs: dict[str, Tensor], with_look: bool) -> Tensor:
    look = Look(inputs["look"], inputs["keys"]) if with_look else None
    return bridge(
        inputs["x"], inputs["tokens"], inputs["mask"], inputs["pos"], inputs["query_pos"], look
    )[0]


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(0)
    double = dict(dtype=torch.float64)
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[0, :, 4:] = True
    return dict(
        x=torch.randn(2, 16, 5, 6, **double).requires_grad_(),
        tokens=torch.randn(2, 9, 16, **double).requires_grad_(),
        pos=torch.randn(1, 16, 5, 6, **double),
        query_pos=torch.randn(2, 9, 16, **double).requires_grad_(),
        look=torch.randn(2, 4, 9, 4, **double),
        keys=torch.randn(1, 1, 4, 30, **double),
        mask=mask,
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("with_look", [False, True])
@pytest.mark.parametrize("located", [False, True])
def test_without_logits_the_tokens_read_the_same(
    inputs: dict[str, Tensor], padded: bool, with_look: bool, located: bool
) -> None:
    if not padded:
        inputs["mask"] = None
    if not located:
        inputs["pos"] = None
    stored = MobileToFormer(16, 16, num_heads=4).double()
    fused = MobileToFormer(16, 16, num_heads=4, with_logits=False).double()
    fused.load_state_dict(stored.state_dict())
    wanted = [inputs["x"], inputs["tokens"], inputs["query_pos"]]
    results = []
    for bridge in (stored, fused):
        out = asked(bridge, inputs, with_look)
        results.append((out, torch.autograd.grad(out.sin().sum(), [*wanted, *bridge.parameters()])))
    torch.testing.assert_close(results[1], results[0], atol=1e-10, rtol=1e-8)
    assert fused(inputs["x"], inputs["tokens"])[1] is None


@pytest.mark.parametrize("padded", [False, True])
def test_heads_read_where_they_are_told_to(inputs: dict[str, Tensor], padded: bool) -> None:
    """As heads whose queries are zeros and whose look is the logarithm of what they are told."""
    shares = torch.rand(2, 9, 30, dtype=torch.float64)
    if padded:
        shares = shares.masked_fill(inputs["mask"].flatten(1)[:, None], 0.0)
    else:
        inputs["mask"] = None
    shares = shares / shares.sum(-1, keepdim=True)
    told = MobileToFormer(16, 16, num_heads=4, with_logits=False, told=3).double()
    plain = MobileToFormer(16, 16, num_heads=4).double()
    plain.load_state_dict(told.state_dict())
    plain.query.weight.data[:12] = 0
    plain.query.bias.data[:12] = 0
    # As many further channels as cells: each of them a cell's own.
    asked_look = torch.randn(2, 1, 9, 30, dtype=torch.float64)
    everywhere = torch.cat((shares.clamp(min=1e-300).log()[:, None].expand(-1, 3, -1, -1), asked_look), 1)
    cells = torch.eye(30, dtype=torch.float64)[None, None]
    wanted = [inputs["x"], inputs["tokens"], inputs["query_pos"]]
    results = []
    for bridge, look in ((plain, Look(everywhere, cells)), (told, Look(asked_look, cells, shares))):
        arguments = (inputs[name] for name in ("x", "tokens", "mask", "pos", "query_pos"))
        out = bridge(*arguments, look)[0]
        grads = torch.autograd.grad(out.sin().sum(), [*wanted, *bridge.parameters()])
        # Of what is not asked nothing is learned.
        results.append((out, *grads[:3], grads[3][12:], *grads[5:]))
        if bridge is told:
            assert grads[3][:12].abs().max() == 0
    torch.testing.assert_close(results[1], results[0], atol=1e-10, rtol=1e-8)


def test_one_head_at_least_asks() -> None:
    with pytest.raises(ValueError, match="told=4 of 4 heads: one at least has to ask"):
        MobileToFormer(16, 16, num_heads=4, with_logits=False, told=4)
    with pytest.raises(ValueError, match="all where logits are wanted"):
        MobileToFormer(16, 16, num_heads=4, told=1)
    with pytest.raises(ValueError, match="told=4 of 4 heads"):
        Former(16, 4, told=4)


def test_keys_and_values_are_made_again_instead_of_kept(inputs: dict[str, Tensor]) -> None:
    bridge = MobileToFormer(16, 16, num_heads=4, with_logits=False).double()
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        asked(bridge, inputs, with_look=False)
    assert not [tuple(tensor.shape) for tensor in kept if tensor.dim() > 2 and tensor.shape[-2] == 30]


def test_many_tokens_are_read_as_few_are() -> None:
    torch.manual_seed(0)
    bridge = FormerToMobile(8, 6, num_heads=2).double()
    x, tokens = torch.randn(2, 8, 3, 4).double(), torch.randn(2, 9, 6).double()
    pos, query_pos = torch.randn(1, 8, 3, 4).double(), torch.randn(2, 9, 6).double()
    key = bridge.key(tokens + query_pos).unflatten(-1, (2, 4)).transpose(1, 2) * bridge.scale
    value = bridge.value(tokens).unflatten(-1, (2, 4)).transpose(1, 2)
    scores = key @ (x + pos).flatten(2).unflatten(1, (2, 4))
    expected = x + (value.transpose(-1, -2) @ scores.softmax(dim=-2)).flatten(1, 2).unflatten(-1, (3, 4))
    torch.testing.assert_close(bridge(x, tokens, pos, query_pos), expected)
    few, same = copy.deepcopy(bridge), tokens[:, :3]
    # Three tokens times two heads are fewer than eight channels: the other form.
    doubled = torch.cat((same, same, same), dim=1)
    torch.testing.assert_close(few(x, same, pos), bridge(x, doubled, pos))
