"""How the queries' boxes are predicted from block to block: by the head and by its folded form (ours)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .head_read import BoxReader, mean_with_read
from .head_reference import Place, Queries, embed_sizes, move_boxes
from .head_rivals import rival_shares


class BoxesOfQueries:
    """What predicts boxes from contents; a head that inherits it brings the layers.

    Attributes:
        fc_cls, reg_ffn, activate, fc_reg: As DETRHead's.
        reader: Reads boxes from the finest map, or None.
        deltas, size_aware, rivals: As :class:`~mmdet_mobileformer.E2EMFHead`'s.
    """

    fc_cls: Any
    reg_ffn: Any
    activate: nn.Module
    fc_reg: Any
    reader: BoxReader | None
    deltas: str
    size_aware: bool
    rivals: bool

    def boxes_of(self, content: Tensor, reference: Tensor | None) -> Tensor:
        """Boxes (N, Q, 4) before the sigmoid, in float32 at least."""
        known = at_least_float32(content)
        if self.size_aware and reference is not None:
            known = known + embed_sizes(reference, known.shape[-1])
        change: Tensor = self.fc_reg(self.activate(self.reg_ffn(known)))
        return change if reference is None else move_boxes(reference, change, self.deltas)

    def refine_boxes(
        self,
        queries: Queries,
        place: Place | None = None,
        read: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predict boxes (N, Q, 4) before the sigmoid; the next block starts from them.

        What is ``read`` from the finest map, if it is there already, comes with its place and padding mask.
        """
        boxes = self._boxes(queries.content, queries.reference, place, read, mask)
        if queries.reference is not None:
            queries.reference = boxes.detach()
        return boxes

    def _boxes(
        self,
        content: Tensor,
        reference: Tensor | None,
        place: Place | None,
        read: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Boxes by content, and by the map if they are read."""
        boxes = self.boxes_of(content, reference)
        if read is None or place is None or reference is None:
            return boxes
        return mean_with_read(read, mask, place, reference, boxes)

    def rivals_of(
        self,
        queries: Queries,
        place: Place | None = None,
        read: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Callable[[Tensor], Tensor] | None:
        """How the queries' rivals are told: by what their content predicts before it is shared.

        Arguments as of :meth:`refine_boxes`.
        """
        if not self.rivals:
            return None
        reference, apart = queries.reference, queries.apart

        @torch.no_grad()
        def rivals(content: Tensor) -> Tensor:
            with full_precision(content):
                scores = self.fc_cls(at_least_float32(content)).amax(dim=-1)
                boxes = self._boxes(content, reference, place, read, mask)
                return rival_shares(boxes, scores, apart)

        return rivals


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast on the device of ``x``, where there is any."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, of half precision in float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
