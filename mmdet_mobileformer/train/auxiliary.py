"""A dense auxiliary head, in training only (ours; the idea of Co-DETR, arXiv 2211.12860).

Few queries match few objects, so a backbone that starts from scratch hears little from them. A
dense head of mmdet teaches it at every position. It may read the backbone's features through a neck of
its own, or the maps of the query head, which the queries then find full of what they look for.
Inference does not know it.

Steps of the dense head alone take a fraction of the time of those with queries, whose layers are many
and small. So the queries may join when the maps have learned (``dense_first``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from torch import Tensor, nn

from ..detector import E2EMF
from ..head import E2EMFHead
from ..head_blocks import E2EMFBlock, HeadScale
from ..padding import padding_mask
from .minutes import MinutesTrainLoop


@MODELS.register_module()
class E2EMFWithAuxiliary(E2EMF):
    """E2E-MF that also trains a dense head.

    Predictions, and their cost, are those of :class:`E2EMF`, which loads the same checkpoints.

    Args:
        aux_neck: Any neck of mmdet for the backbone's features; None for a dense head on the maps
            that E2EMFHead has after each scale's blocks, of its width and strides.
        aux_head: Any dense head of mmdet; None to train without one.
        aux_weight: Weight of the dense head's losses.
        dense_first: Share of the training (of the minutes of a MinutesTrainLoop, else of the iterations)
            that the dense head has alone, before the queries learn, too. Queries write nothing into the
            maps when they join. A detector whose queries write already, such as one that continues
            from a checkpoint, does not wait. In distributed training the config needs
            ``find_unused_parameters=True``.
        kwargs: Arguments of :class:`E2EMF`.

    Raises:
        ValueError: If there is no neck and the dense head's ``in_channels`` or ``strides`` are not
            those of the maps, or ``bbox_head`` has no maps; if ``dense_first`` is not in [0, 1), or
            is not 0 without a dense head or with a ``bbox_head`` that is not E2EMFHead.
    """

    def __init__(
        self,
        *,
        aux_neck: dict[str, Any] | None = None,
        aux_head: dict[str, Any] | None = None,
        aux_weight: float = 1.0,
        dense_first: float = 0.0,
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
        self.dense_first = dense_first
        if dense_first:
            _check_dense_first(dense_first, self.bbox_head, self.aux_head)
            for layer in _writing(self.bbox_head):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """As :class:`E2EMF`, with the dense head's losses as ``aux.*``."""
        feats = self.extract_feat(batch_inputs, batch_data_samples)
        maps: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        # Heads of mmdet have no maps to give.
        wanted = (maps,) if self.aux_head is not None and self.aux_neck is None else ()
        if not self.queries_wait():
            losses = self.bbox_head.loss(feats, batch_data_samples, *wanted)
        elif wanted:
            mask = padding_mask(batch_data_samples, feats[0])
            maps += self.bbox_head.maps_without_queries(feats, mask)
        if self.aux_head is None:
            return losses
        read = self.aux_neck(feats) if self.aux_neck is not None else tuple(reversed(maps))
        for name, value in self.aux_head.loss(read, batch_data_samples).items():
            # Heads give one value, or one per level.
            total: Any = sum(value) if isinstance(value, (list, tuple)) else value
            losses[f"aux.{name}"] = total * self.aux_weight
        return losses

    def queries_wait(self) -> bool:
        """Whether the dense head is alone at this step of the training."""
        if not self.dense_first or training_share() >= self.dense_first:
            return False
        return not any(bool(layer.weight.any()) for layer in _writing(self.bbox_head))


def training_share() -> float:
    """Share of the running training that is done, from 0 to 1, as its loop tells; 1 if none does."""
    hub = MessageHub.get_current_instance()
    told = hub.runtime_info
    if MinutesTrainLoop.SHARE in told:
        return float(hub.get_info(MinutesTrainLoop.SHARE))
    if "iter" in told and told.get("max_iters"):
        return float(hub.get_info("iter") / hub.get_info("max_iters"))
    return 1.0


def _writing(bbox_head: E2EMFHead) -> list[nn.Linear]:
    """The layers that make what queries write into the maps."""
    blocks = [block for scale in bbox_head.scales for block in cast(HeadScale, scale).blocks]
    reads = [cast(E2EMFBlock, block).former_to_mobile for block in blocks]
    return [read.value for read in reads if read is not None]


def _check_dense_first(share: float, bbox_head: Any, aux_head: Any) -> None:
    """Raise ValueError if the queries cannot wait for a dense head."""
    if not 0 < share < 1:
        raise ValueError(f"E2EMFWithAuxiliary got dense_first={share}: give a share from 0 to below 1")
    if aux_head is None:
        raise ValueError("dense_first needs an aux_head, which learns first: give one, or dense_first=0")
    if not isinstance(bbox_head, E2EMFHead):
        raise ValueError(
            f"dense_first is for E2EMFHead: set it to 0 with {type(bbox_head).__name__}"
        )


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
