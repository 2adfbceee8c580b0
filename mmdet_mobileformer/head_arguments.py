"""What E2EMFHead's arguments mean and which do not fit each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from .archs import STRIDES, get_arch
from .head_reference import DELTAS, LOOKS, told_heads
from .head_rivals import told_former_heads


def split_background(
    loss_cls: dict[str, Any] | None, num_classes: int
) -> tuple[dict[str, Any], float]:
    """A copy of ``loss_cls`` with a weight per class, and the weight of no-object.

    mmdet handles ``bg_cls_weight`` in DETRHead itself only, not in what is made of it.
    """
    if loss_cls is None:
        loss_cls = dict(type="CrossEntropyLoss", bg_cls_weight=0.1, use_sigmoid=False)
    loss_cls = copy.deepcopy(dict(loss_cls))
    background = loss_cls.pop("bg_cls_weight", None)
    if background is None:
        # Sigmoid losses have no background class.
        softmax = loss_cls["type"] == "CrossEntropyLoss" and not loss_cls.get("use_sigmoid", False)
        return loss_cls, 1.0 if softmax else 0.0
    weight = loss_cls.pop("class_weight", 1.0)
    if not isinstance(weight, (int, float)):
        raise ValueError("loss_cls has both bg_cls_weight and a class_weight list: give one")
    loss_cls["class_weight"] = [float(weight)] * num_classes + [float(background)]
    return loss_cls, float(background)


def input_channels(
    arch: str | None, in_channels: Sequence[int] | None, scales: Sequence[int]
) -> list[int]:
    """Input channels per scale, coarse to fine."""
    if (arch is None) == (in_channels is None):
        raise ValueError("E2EMFHead takes either arch or in_channels: give one of them")
    if in_channels is not None:
        if len(in_channels) != len(scales):
            raise ValueError(
                f"in_channels has {len(in_channels)} entries for {len(scales)} scales: give one "
                "per scale, fine to coarse"
            )
        return list(in_channels)[::-1]
    unknown = [stride for stride in scales if stride not in STRIDES]
    if unknown:
        raise ValueError(f"scales has stride {unknown[0]}: Mobile-Former has {STRIDES}")
    widths = get_arch(str(arch)).out_channels
    return [widths[STRIDES.index(stride)] for stride in scales]


def check_arguments(
    scales: Sequence[int],
    num_blocks: Sequence[int],
    sides: Sequence[str],
    position: str,
    embed_dims: int,
    num_heads: int,
) -> None:
    """Raise ValueError in one sentence if E2EMFHead's arguments do not fit each other."""
    if not scales or list(scales) != sorted(set(scales), reverse=True):
        raise ValueError(f"scales is {tuple(scales)}: give strides from coarse to fine")
    if len(num_blocks) != len(scales) or len(sides) != len(scales) or min(num_blocks) < 1:
        raise ValueError(
            f"num_blocks {tuple(num_blocks)} and sides {tuple(sides)} need one entry per scale "
            f"{tuple(scales)}, at least one block each"
        )
    unknown = [side for side in sides if side not in ("transformer", "lite")]
    if unknown:
        raise ValueError(f"side {unknown[0]!r} is unknown: choose 'transformer' or 'lite'")
    if position not in ("adaptive", "shared"):
        raise ValueError(f"position is {position!r}: choose 'adaptive' or 'shared'")
    if embed_dims % num_heads or embed_dims % 4:
        raise ValueError(f"embed_dims {embed_dims} must be a multiple of 4 and of {num_heads} heads")


def check_queries(
    reference_boxes: bool | str,
    query_init: str | None,
    look: str,
    deltas: str,
    size_aware: bool,
    rivals: bool,
    read_boxes: bool,
    num_heads: int,
) -> str:
    """E2EMFHead's ``query_init`` with its default; raises ValueError if it does not fit."""
    if reference_boxes not in (False, True, "grid", "pyramid"):
        raise ValueError(
            f"reference_boxes is {reference_boxes!r}: choose False, True, 'grid' or 'pyramid'"
        )
    if look not in LOOKS:
        raise ValueError(f"look is {look!r}: choose one of {', '.join(map(repr, LOOKS))}")
    if deltas not in DELTAS:
        raise ValueError(f"deltas is {deltas!r}: choose one of {', '.join(map(repr, DELTAS))}")
    if size_aware and not reference_boxes:
        raise ValueError("size_aware=True needs boxes whose size is known: set reference_boxes too")
    if reference_boxes and told_heads(look, num_heads) == num_heads:
        raise ValueError(f"look={look!r} leaves none of {num_heads} heads to ask: set num_heads=8")
    if rivals and told_former_heads(num_heads) == num_heads:
        raise ValueError(f"rivals=True leaves none of {num_heads} heads to ask: set num_heads=8")
    if rivals and not reference_boxes:
        raise ValueError("rivals=True needs boxes that may overlap: set reference_boxes too")
    if read_boxes and not reference_boxes:
        raise ValueError("read_boxes=True needs boxes to read at: set reference_boxes too")
    if query_init is None:
        # With boxes the queries differ by these alone at first.
        return "zeros" if reference_boxes else "normal"
    if query_init not in ("normal", "zeros", "grid"):
        raise ValueError(f"query_init is {query_init!r}: choose 'normal', 'zeros' or 'grid'")
    if query_init == "zeros" and not reference_boxes:
        raise ValueError(
            "query_init='zeros' makes all queries the same: choose 'normal' or 'grid', or use "
            "reference_boxes"
        )
    if query_init == "grid" and reference_boxes:
        raise ValueError("reference_boxes place the queries already: leave query_init='grid' out")
    return query_init
