"""Reference boxes of the queries and attention that starts at them (ours, not the paper's).

A query of DETR learns over hundreds of epochs where to look. Here every query has a box from the
start, on a grid; its box is refined after every block, its position carries the box's centre, and
most heads of Mobile→Former look at the box first: at its middle alone, whatever is there or not, or at
its edges and its surroundings too. The ideas are those of DAB-DETR (arXiv 2201.12329) and SMCA (arXiv 2101.07448);
nothing here is learned and nothing adds parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.models.layers import SinePositionalEncoding
from torch import Tensor

from .layers import Look

#: Where eight heads look, in widths and heights of the box: centre dx, dy, deviations sx, sy, and
#: whether they do. ``'edges'``: twice the middle, the four edges, around it, everywhere alike.
#: ``'middle'``: nearly the whole feature at the middle, which a dense head has taught to tell class
#: and box (each head reads channels of its own), and its surroundings. ``'fixed'``: the same closer up,
#: where the heads at the middle do not ask what is there: else they read beside it, by an amount that a
#: query does not know, and boxes are as imprecise as that.
LOOKS = {
    "edges": (
        (0.0, 0.0, 0.25, 0.25, 1.0),
        (0.0, 0.0, 0.5, 0.5, 1.0),
        (-0.5, 0.0, 0.2, 0.4, 1.0),
        (0.5, 0.0, 0.2, 0.4, 1.0),
        (0.0, -0.5, 0.4, 0.2, 1.0),
        (0.0, 0.5, 0.4, 0.2, 1.0),
        (0.0, 0.0, 1.5, 1.5, 1.0),
        (0.0, 0.0, 1.0, 1.0, 0.0),
    ),
    "middle": (
        *((0.0, 0.0, 0.15, 0.15, 1.0),) * 6,
        *((0.0, 0.0, 0.4, 0.4, 1.0),) * 2,
    ),
    "fixed": (
        *((0.0, 0.0, 0.1, 0.1, 1.0),) * 6,
        *((0.0, 0.0, 0.4, 0.4, 1.0),) * 2,
    ),
}
#: How many of the eight, the first, which look alike, the features have no part in.
TOLD = {"fixed": 6}
#: Layout ``'pyramid'``: share of the queries, and side of their boxes as a share of the image's.
PYRAMID = ((0.5, 0.12), (0.3, 0.3), (0.2, 0.6))
#: What a block predicts of a reference box: ``'logit'``: changes of the logits of (cx, cy, w, h), as in
#: DAB-DETR; ``'box'``: moves in widths and heights of the box and the logarithm of its growth, as in
#: Faster R-CNN: the same whatever the box's place and size, of which a query's content knows nothing.
DELTAS = ("logit", "box")
#: Smallest side and distance to the edge of the image of a moved box, as a share of the image's side.
LEAST_SHARE = 1e-4
#: Smallest deviation, in cells of the map: below it a head could look between the cells.
LEAST_CELLS = 0.5


def grid_boxes(count: int, side: float | None = None) -> Tensor:
    """Boxes of ``count`` queries, spread evenly over the image.

    Args:
        count: Number of boxes.
        side: Width and height of every box as a share of the image's; None for one and a half cells
            of the grid.

    Returns:
        (count, 4) as (cx, cy, w, h) before the sigmoid.
    """
    rows = max(1, round(count**0.5))
    columns = -(-count // rows)
    index = torch.arange(count)
    y = (index // columns + 0.5) / -(-count // columns)
    x = (index % columns + 0.5) / columns
    size = torch.full_like(x, min(1.5 / columns, 0.9) if side is None else side)
    return torch.stack((x, y, size, size), dim=1).logit()


def pyramid_boxes(count: int) -> Tensor:
    """Boxes of ``count`` queries on a grid for each size of :data:`PYRAMID`, small to large.

    Returns:
        As :func:`grid_boxes`.
    """
    ends = [0]
    for share, _ in PYRAMID:
        ends.append(ends[-1] + round(share * count))
    ends[-1] = count
    parts = [
        grid_boxes(stop - start, side)
        for start, stop, (_, side) in zip(ends, ends[1:], PYRAMID)
        if stop > start
    ]
    return torch.cat(parts)


#: Layouts of the queries' first boxes.
LAYOUTS = {"grid": grid_boxes, "pyramid": pyramid_boxes}


def move_boxes(boxes: Tensor, change: Tensor, deltas: str) -> Tensor:
    """Reference boxes after a block.

    Args:
        boxes: (N, Q, 4) as (cx, cy, w, h) before the sigmoid.
        change: What the block predicts, (N, Q, 4).
        deltas: One of :data:`DELTAS`.

    Returns:
        As ``boxes``.
    """
    if deltas == "logit":
        return boxes + change
    boxes = boxes.sigmoid()
    centre, size = boxes[..., :2], boxes[..., 2:]
    # Four blocks reach every size from every other.
    growth = change[..., 2:].clamp(-3, 3).exp()
    moved = torch.cat((centre + change[..., :2] * size, size * growth), dim=-1)
    return moved.clamp(LEAST_SHARE, 1 - LEAST_SHARE).logit()


def embed_sizes(boxes: Tensor, channels: int) -> Tensor:
    """Sine embedding of the boxes' sides, for the prediction of how they change.

    A block reads from the features how large its object is, and predicts how much the box has to grow:
    that is the difference to the box's own size.

    Args:
        boxes: (N, Q, 4) as (cx, cy, w, h) before the sigmoid.
        channels: C, a multiple of 4.

    Returns:
        (N, Q, C): sines, then cosines, of the width's logarithm, then the height's.
    """
    sides = F.logsigmoid(boxes[..., 2:]) / math.log(2)
    # The slowest wave is nearly linear over all sizes, the fastest tells an eighth of an octave.
    index = torch.arange(channels // 4, device=boxes.device, dtype=boxes.dtype)
    angle = sides[..., None] * 2.0 ** (2.5 * index / max(channels // 4 - 1, 1) - 1.5)
    return torch.cat((angle.sin(), angle.cos()), dim=-1).flatten(-2)


@dataclass
class Queries:
    """Queries on their way through the head.

    Attributes:
        content: q^f, (N, Q, C).
        position: q^p, (N, Q, C), without what the reference boxes add.
        reference: Boxes (N, Q, 4) as (cx, cy, w, h) before the sigmoid; None without.
        apart: (Q, Q), True where a query may not read another; None if all read all.
    """

    content: Tensor
    position: Tensor
    reference: Tensor | None = None
    apart: Tensor | None = None

    def followed_by(self, others: Queries) -> Queries:
        """These queries, then others; neither group reads the other."""
        count, more = self.content.shape[1], others.content.shape[1]
        apart = torch.ones(count + more, count + more, dtype=torch.bool, device=self.content.device)
        apart[:count, :count] = False if self.apart is None else self.apart
        apart[count:, count:] = False if others.apart is None else others.apart
        reference = None
        if self.reference is not None and others.reference is not None:
            reference = torch.cat((self.reference, others.reference), dim=1)
        return Queries(
            torch.cat((self.content, others.content), dim=1),
            torch.cat((self.position, others.position), dim=1),
            reference,
            apart,
        )


@dataclass
class Place:
    """Where a map's cells lie in the valid part of their images, as shares of it.

    Attributes:
        keys: Keys of :meth:`look`, (N or 1, 1, 4, H*W).
        cell: Width and height of a cell, (N or 1, 2).
    """

    keys: Tensor
    cell: Tensor

    @classmethod
    def of_map(cls, mask: Tensor | None, feat: Tensor) -> Place:
        """From the padding mask (N, H, W), True where padded, or None, and a map (N, C, H, W)."""
        height, width = feat.shape[-2:]
        if mask is None:
            mask = torch.zeros(1, height, width, dtype=torch.bool, device=feat.device)
        # Images keep their pixels at the top left: the first row and column tell the size.
        columns, rows = (~mask[:, 0]).sum(1), (~mask[:, :, 0]).sum(1)
        # A floating type from the start: of whole numbers a traced graph of one size makes float64.
        dtype = torch.promote_types(feat.dtype, torch.float32)
        cell = 1 / torch.stack((columns, rows), dim=1).to(dtype)
        # Measured from the middle of the image, for precision.
        column, row = (
            torch.arange(count, device=feat.device, dtype=dtype) for count in (width, height)
        )
        x = (column + 0.5) * cell[:, :1] - 0.5
        y = (row + 0.5) * cell[:, 1:] - 0.5
        shape = (len(cell), height, width)
        centres = torch.stack((x[:, None].expand(shape), y[:, :, None].expand(shape)), dim=1)
        centres = centres.flatten(2)
        return cls(torch.cat((centres, centres.square()), dim=1).unsqueeze(1), cell)

    def look(
        self, boxes: Tensor, num_heads: int, kind: str, mask: Tensor | None = None
    ) -> Look:
        """Where the heads of Mobile→Former look.

        Args:
            boxes, num_heads, kind: As in :meth:`gaussians`.
            mask: Padding mask of the map (N, H, W), True where padded.
        """
        queries, keys = self.gaussians(boxes, num_heads, kind)
        told = told_heads(kind, num_heads)
        if not told:
            return Look(queries, keys)
        scores = queries[:, 0] @ keys[:, 0]
        if mask is not None:
            scores = scores.masked_fill(mask.flatten(1)[:, None], float("-inf"))
        return Look(queries[:, told:], keys, scores.softmax(dim=-1))

    def gaussians(self, boxes: Tensor, num_heads: int, kind: str) -> tuple[Tensor, Tensor]:
        """Queries and keys whose product favours the cells where the heads look.

        It is the exponent of a Gaussian: ``-a (x - c)^2 = 2ac x - a x^2 - a c^2``, where the last
        term is the same for all positions, so a softmax over positions does not see it. The
        Gaussian costs four channels in a product.

        Args:
            boxes: Reference boxes (N, Q, 4) as normalised (cx, cy, w, h).
            num_heads: Heads, over which the eight looks are spread.
            kind: Key of :data:`LOOKS`.

        Returns:
            Queries (N, heads, Q, 4) and keys (N or 1, 1, 4, H*W).
        """
        looks = boxes.new_tensor([LOOKS[kind][index] for index in _spread(num_heads)])
        shift, spread = looks[None, :, None, :2], looks[None, :, None, 2:4]
        centre, size = boxes[:, None, :, :2], boxes[:, None, :, 2:]
        deviation = torch.maximum(spread * size, LEAST_CELLS * self.cell[:, None, None])
        slope = 0.5 * looks[None, :, None, 4:] / deviation.square()
        return _around(centre + shift * size, slope), self.keys

    def middles(self) -> Tensor:
        """Middles of the cells (N or 1, H*W, 2) as shares (x, y)."""
        return self.keys[:, 0, :2].transpose(1, 2) + 0.5

    def near(self, points: Tensor, spread: float) -> Tensor:
        """Exponents (N, Q, H*W) of Gaussians around ``points``, but for what all cells have alike.

        Args:
            points: (N, Q, 2) as shares (x, y).
            spread: Deviation in cells.
        """
        slope = (0.5 / (spread * self.cell).square())[:, None].expand_as(points)
        return _around(points, slope) @ self.keys[:, 0]


def _around(points: Tensor, slope: Tensor) -> Tensor:
    """What, times the keys of a :class:`Place`, is the exponent of a Gaussian around points (..., 2)."""
    return torch.cat((2 * slope * (points - 0.5), -slope), dim=-1)


def _spread(num_heads: int) -> list[int]:
    """Which of eight looks each head has."""
    return [head * 8 // num_heads for head in range(num_heads)]


def told_heads(kind: str, num_heads: int) -> int:
    """How many heads of Mobile→Former, the first, read where they are told, whatever the features are.

    Args:
        kind: Key of :data:`LOOKS`.
        num_heads: Heads, over which the eight looks are spread.
    """
    return sum(index < TOLD.get(kind, 0) for index in _spread(num_heads))


def embed_centres(
    boxes: Tensor, encoding: SinePositionalEncoding, place: Place | None = None
) -> Tensor:
    """Sine embedding of the boxes' centres, as ``encoding`` embeds the cells of a map.

    Args:
        boxes: (N, Q, 4) as normalised (cx, cy, w, h).
        encoding: mmdet's SinePositionalEncoding with ``normalize=True``.
        place: The map's; the encoding measures to the far edge of a cell, not to its middle. None
            for cells of no size, where the map is not known.

    Returns:
        (N, Q, C).
    """
    point = boxes[..., :2] if place is None else boxes[..., :2] + 0.5 * place.cell[:, None]
    point = point * encoding.scale
    index = torch.arange(encoding.num_feats, device=boxes.device, dtype=boxes.dtype)
    wave = encoding.temperature ** (2 * (index // 2) / encoding.num_feats)
    angle = point[..., None] / wave
    parts = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)
    return torch.cat((parts[..., 1, :], parts[..., 0, :]), dim=-1)
