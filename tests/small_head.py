"""Small settings of E2EMFHead for tests."""

from __future__ import annotations

from typing import Any

#: As the paper's.
PLAIN: dict[str, Any] = dict(
    num_classes=3,
    arch="26m",
    num_blocks=(2, 1, 1),
    embed_dims=32,
    num_heads=4,
    num_queries=12,
    query_ffn_dims=32,
    side_ffn_dims=32,
    dropout=0.0,
)
#: With boxes of the queries, for what refines them.
SMALL: dict[str, Any] = dict(
    PLAIN,
    num_heads=8,
    num_queries=9,
    reference_boxes=True,
    loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
)
