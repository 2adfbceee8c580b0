"""head_blocks.py: the transformer side computes what mmdet's encoder layer does."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.layers import DetrTransformerEncoderLayer

from mmdet_mobileformer.head_blocks import TransformerSide


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_side_is_mmdets_encoder_layer(training: bool, padded: bool) -> None:
    torch.manual_seed(0)
    side = TransformerSide(16, 4, 32, dropout=0.0 if training else 0.1).double().train(training)
    layer = DetrTransformerEncoderLayer(
        self_attn_cfg=dict(embed_dims=16, num_heads=4, dropout=0.0),
        ffn_cfg=dict(embed_dims=16, feedforward_channels=32, num_fcs=2, ffn_drop=0.0),
    ).double()
    layer.load_state_dict(side.state_dict())
    x, pos = torch.randn(2, 16, 3, 5).double(), torch.randn(1, 16, 3, 5).double()
    mask = None
    if padded:
        mask = torch.zeros(2, 3, 5, dtype=torch.bool)
        mask[1, :, 3:] = True
    expected = layer(
        query=x.flatten(2).transpose(1, 2),
        query_pos=pos.flatten(2).transpose(1, 2),
        key_padding_mask=None if mask is None else mask.flatten(1),
    )
    found = side(x, mask, pos).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_dropout_has_the_mean_of_none() -> None:
    """With and without: the weights' dropout takes another path than the fused attention."""
    torch.manual_seed(0)
    side = TransformerSide(16, 4, 32, dropout=0.2)
    x, pos = torch.randn(1, 16, 3, 5), torch.randn(1, 16, 3, 5)
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    mask[0, :, 4:] = True
    sequence = x.flatten(2).transpose(1, 2)
    key = sequence + pos.flatten(2).transpose(1, 2)
    with torch.no_grad():
        expected = side.eval()._attend(sequence, key, mask)
        side.train()
        draws = torch.stack([side._attend(sequence, key, mask) for _ in range(3000)])
    assert not torch.equal(draws[0], draws[1])
    error = (draws.mean(dim=0) - expected).abs()
    # Five standard errors of the mean.
    assert (error < 5 * draws.std(dim=0) / 3000**0.5).all()
