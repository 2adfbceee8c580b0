"""Boxes that are read from the finest map (ours, not the paper's).

A query tells its box by what it gathered, which goes through gates, norms and two layers first. A dense
head reads the box from the map itself, in one product, and is more exact after as many steps. Here the
map tells a box at each of its cells, as FCOS's (arXiv 1904.01355), and a query takes the one at the middle
of its own box; what it predicts is the mean of that box and of the one that its content tells.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from torch import Tensor, nn

from .head_reference import LEAST_SHARE, Place
from .layers import zero_padding

#: Deviation, in cells, of the weights by which the cells around a middle share in a box: about those of
#: bilinear interpolation, as a product that any runtime has.
SPREAD = 0.4
#: Distances to the sides before the softplus, at first: about two cells.
FIRST = 2.0


class BoxReader(nn.Module):
    """Reads boxes from a map.

    Args:
        channels: Channels C of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sides = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.normal_(self.sides.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.sides.bias), FIRST)

    def forward(self, x: Tensor, mask: Tensor | None, place: Place) -> Tensor:
        """What a map tells.

        Args:
            x: The map (N, C, H, W).
            mask: Its padding mask (N, H, W), True where padded; or None.
            place: Where its cells lie.

        Returns:
            A box for each cell, (N, H*W, 4) as shares (x1, y1, x2, y2).
        """
        # In cells, to the left, the top, the right and the bottom of the cell's middle.
        sides = F.softplus(self.sides(zero_padding(x, mask))).flatten(2).transpose(1, 2)
        middles, cell = place.middles(), place.cell[:, None]
        return torch.cat((middles - sides[..., :2] * cell, middles + sides[..., 2:] * cell), dim=-1)


def mean_with_read(
    read: Tensor, mask: Tensor | None, place: Place, reference: Tensor, told: Tensor
) -> Tensor:
    """Boxes of queries.

    Args:
        read: What the map tells, of :class:`BoxReader`.
        mask, place: As there.
        reference: The boxes in whose middles to read, (N, Q, 4) as (cx, cy, w, h) before the sigmoid.
        told: The boxes by the queries' contents, as ``reference``.

    Returns:
        As ``told``: their mean with those that are read.
    """
    near = place.near(reference.sigmoid()[..., :2], SPREAD)
    if mask is not None:
        near = near.masked_fill(mask.flatten(1)[:, None], float("-inf"))
    boxes = bbox_xyxy_to_cxcywh(near.softmax(dim=-1) @ read)
    return ((boxes + told.sigmoid()) / 2).clamp(LEAST_SHARE, 1 - LEAST_SHARE).logit()
