"""A small E2EMFHead whose queries have boxes, for the tests of what refines them."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = dict(
    num_classes=3,
    arch="26m",
    num_blocks=(2, 1, 1),
    embed_dims=32,
    num_heads=8,
    num_queries=9,
    query_ffn_dims=32,
    side_ffn_dims=32,
    dropout=0.0,
    reference_boxes=True,
    loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
)
