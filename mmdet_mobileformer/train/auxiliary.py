"""A dense auxiliary head, in training only (ours; the idea of Co-DETR, arXiv 2211.12860).

Few queries match few objects, so a backbone that starts from scratch hears little from them. A
dense head of mmdet on the same features teaches it at every position. Inference does not know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.registry import MODELS
from torch import Tensor

from ..detector import E2EMF


@MODELS.register_module()
class E2EMFWithAuxiliary(E2EMF):
    """E2E-MF that also trains a neck and a dense head on the backbone's features.

    Predictions, and their cost, are those of :class:`E2EMF`, which loads the same checkpoints.

    Args:
        aux_neck: Any neck of mmdet for the backbone's features.
        aux_head: Any dense head of mmdet for the neck's outputs; None to train without one.
        aux_weight: Weight of the dense head's losses.
        kwargs: Arguments of :class:`E2EMF`.

    Raises:
        ValueError: If there is a head but no neck.
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
        if aux_head is not None and aux_neck is None:
            raise ValueError("E2EMFWithAuxiliary has an aux_head without an aux_neck: give both")
        self.aux_neck = None if aux_head is None else MODELS.build(aux_neck)
        self.aux_head = None if aux_head is None else MODELS.build(aux_head)
        self.aux_weight = aux_weight

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """As :class:`E2EMF`, with the dense head's losses as ``aux.*``."""
        feats = self.extract_feat(batch_inputs, batch_data_samples)
        losses: dict[str, Tensor] = self.bbox_head.loss(feats, batch_data_samples)
        if self.aux_head is None or self.aux_neck is None:
            return losses
        dense = self.aux_head.loss(self.aux_neck(feats), batch_data_samples)
        for name, value in dense.items():
            # Heads give one value, or one per level.
            total: Any = sum(value) if isinstance(value, (list, tuple)) else value
            losses[f"aux.{name}"] = total * self.aux_weight
        return losses
