"""A dense auxiliary head, in training only (ours; the idea of Co-DETR, arXiv 2211.12860).

Few queries match few objects, so a backbone that starts from scratch hears little from them. A
dense head of mmdet teaches it at every position. It may read the backbone's features through a neck of
its own, or the maps of the query head, which the queries then find full of what they look for.
Inference does not know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import MODELS
from torch import Tensor

from ..detector import E2EMF
from ..head import E2EMFHead


@MODELS.register_module()
class E2EMFWithAuxiliary(E2EMF):
    """E2E-MF that also trains a dense head.

    Predictions, and their cost, are those of :class:`E2EMF`, which loads the same checkpoints.

    Args:
        aux_neck: Any neck of mmdet for the backbone's features; None for a dense head on the maps
            that E2EMFHead has after each scale's blocks, of its width and strides.
        aux_head: Any dense head of mmdet; None to train without one.
        aux_weight: Weight of the dense head's losses.
        kwargs: Arguments of :class:`E2EMF`.

    Raises:
        ValueError: If there is no neck and the dense head's ``in_channels`` or ``strides`` are not
            those of the maps, or ``bbox_head`` has no maps.
    """

    def __init__(
        self,
        *,
        aux_neck: dict[str, Any] | None = None,
        aux_head: dict[str, Any] | None = None,
        aux_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.aux_head = None if aux_head is None else MODELS.build(aux_head)
        self.aux_neck = None
        if aux_head is not None and aux_neck is not None:
            self.aux_neck = MODELS.build(aux_neck)
        elif aux_head is not None:
            _check_maps(self.bbox_head, self.aux_head)
        self.aux_weight = aux_weight

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """As :class:`E2EMF`, with the dense head's losses as ``aux.*``."""
        feats = self.extract_feat(batch_inputs, batch_data_samples)
        maps: list[Tensor] = []
        # Heads of mmdet have no maps to give.
        wanted = (maps,) if self.aux_head is not None and self.aux_neck is None else ()
        losses: dict[str, Tensor] = self.bbox_head.loss(feats, batch_data_samples, *wanted)
        if self.aux_head is None:
            return losses
        read = self.aux_neck(feats) if self.aux_neck is not None else tuple(reversed(maps))
        for name, value in self.aux_head.loss(read, batch_data_samples).items():
            # Heads give one value, or one per level.
            total: Any = sum(value) if isinstance(value, (list, tuple)) else value
            losses[f"aux.{name}"] = total * self.aux_weight
        return losses


def _check_maps(bbox_head: Any, aux_head: Any) -> None:
    """Raise ValueError if a dense head does not fit the maps of a query head."""
    if not isinstance(bbox_head, E2EMFHead):
        raise ValueError(
            f"{type(bbox_head).__name__} has no maps for an aux_head without an aux_neck: give one"
        )
    # Dense heads of mmdet, with anchors or without, know their strides as pairs.
    priors = getattr(aux_head, "prior_generator", None)
    strides = None if priors is None else [stride[0] for stride in priors.strides]
    found = (getattr(aux_head, "in_channels", None), strides)
    wanted = (bbox_head.embed_dims, sorted(bbox_head.scale_strides))
    if found != wanted:
        raise ValueError(
            f"without an aux_neck the aux_head reads maps of {wanted[0]} channels at strides "
            f"{wanted[1]}, but has in_channels={found[0]} and strides={found[1]}: change it, or give "
            "an aux_neck"
        )
