"""Draws one picture of the embedded data set "shapes" with the objects in it (ours).

The same pixels come out on every machine: random numbers are the raw output of PCG64, which numpy
keeps fixed; coordinates are rounded to 1/8 px; drawing uses integers and the IEEE operations
+, -, *, / and sqrt alone, so no sine, no text, no library's anti-aliasing. Whatever changes a pixel
here changes :data:`mmdet_mobileformer.data.shapes.SHAPES_SHA256`, and scores no longer compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CLASSES: tuple[str, ...] = ("disc", "square", "triangle", "star", "cross", "capsule")
MAX_OBJECTS = 15
MIN_VISIBLE = 0.5
"""Least share of an object's pixels that is inside the picture and not covered."""

_SUBSAMPLES = 4  # per pixel and axis, for smooth outlines
_MAX_TRIES = 12  # positions tried for an object before it is left out

Ints = npt.NDArray[Any]  # integers; int16 or int32, whichever is enough
Floats = npt.NDArray[np.float64]


class _Draws:
    """Random numbers of one picture, made from PCG64's raw 64-bit output only."""

    def __init__(self, seed: int, split: str, index: int) -> None:
        entropy = [seed, int.from_bytes(split.encode(), "big"), index]
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Ints:
        """Integers from low to high, both included, [*shape]."""
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(32)
        scaled = raw * np.uint64(high - low + 1) >> np.uint64(32)
        return scaled.astype(np.int32).reshape(shape) + low

    def direction(self) -> tuple[float, float]:
        """Cosine and sine of a random angle, without libm: rational points of the circle."""
        t = self.uniform(-1.0, 1.0)
        cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        return (cos, sin) if self.integer(0, 1) else (-cos, -sin)


# --- Outlines: vertices in the unit square [-1, 1]^2 ----------------------------------------------


def _arc(quarters: tuple[int, ...], steps: int = 8) -> list[tuple[float, float]]:
    """Points on the unit circle, ``steps`` to a quarter."""
    points = []
    for quarter in quarters:
        for step in range(steps):
            t = step / steps
            x, y = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
            points.append([(x, y), (-y, x), (-x, -y), (y, -x)][quarter])
    return points


def _star(inner: float = 0.48) -> list[tuple[float, float]]:
    """Five tips on the unit circle, five notches at radius ``inner``."""
    c36, s36, c72, s72 = 0.809017, 0.587785, 0.309017, 0.951057
    tips = [(0.0, -1.0), (s72, -c72), (s36, c36), (-s36, c36), (-s72, -c72)]
    points = []
    for number, tip in enumerate(tips):
        opposite = tips[(number + 3) % 5]
        points += [tip, (-inner * opposite[0], -inner * opposite[1])]
    return points


_ARM = 0.38  # half width of the cross's arms
_ARM_CORNERS = [(_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM)]
_OUTLINES: dict[str, Floats] = {
    "disc": np.array(_arc((0, 1, 2, 3))),
    "square": np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
    "triangle": np.array([(0.0, -1.0), (0.866025, 0.5), (-0.866025, 0.5)]),
    "star": np.array(_star()),
    "cross": np.array(
        _ARM_CORNERS
        + [(-y, x) for x, y in _ARM_CORNERS]
        + [(-x, -y) for x, y in _ARM_CORNERS]
        + [(y, -x) for x, y in _ARM_CORNERS]
    ),
    "capsule": np.array(
        [(0.5 + 0.5 * x, 0.5 * y) for x, y in [*_arc((3, 0)), (0.0, 1.0)]]
        + [(-0.5 + 0.5 * x, 0.5 * y) for x, y in [*_arc((1, 2)), (0.0, -1.0)]]
    ),
}


# --- Textures: how much of the second colour, 0 to 256, about half of it in every class -----------
# x, y: coordinates along the object's own axes in px; radius: its half length in px; cell: px.


def _rings(x: Floats, y: Floats, radius: float, cell: float) -> Ints:
    return _parity(np.sqrt(x * x + y * y) / cell) * 256


def _checker(x: Floats, y: Floats, radius: float, cell: float) -> Ints:
    return (_parity(x / cell) ^ _parity(y / cell)) * 256


def _stripes(x: Floats, y: Floats, radius: float, cell: float) -> Ints:
    return _parity(y / cell) * 256


def _shade(x: Floats, y: Floats, radius: float, cell: float) -> Ints:
    return (np.clip(0.5 + 0.6 * y / radius, 0.0, 1.0) * 256).astype(np.int32)


def _core(x: Floats, y: Floats, radius: float, cell: float) -> Ints:
    near, far = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    return ((near < 0.21 * radius) & (far < 0.83 * radius)).astype(np.int32) * 256


def _dots(x: Floats, y: Floats, radius: float, cell: float) -> Ints:
    pitch = 1.5 * cell
    dx, dy = (z / pitch - np.floor(z / pitch) - 0.5 for z in (x, y + 0.5 * pitch))
    return (dx * dx + dy * dy < 0.16).astype(np.int32) * 256


def _parity(values: Floats) -> Ints:
    return np.floor(values).astype(np.int32) & 1


_TEXTURES: dict[str, Callable[[Floats, Floats, float, float], Ints]] = {
    "disc": _rings,
    "square": _checker,
    "triangle": _stripes,
    "star": _shade,
    "cross": _core,
    "capsule": _dots,
}


# --- One picture ----------------------------------------------------------------------------------


@dataclass
class Shape:
    """One drawn object.

    Attributes:
        label: Index into :data:`CLASSES`.
        polygon: Whole outline clipped to the picture, [N, 2], x and y in px, multiples of 1/8.
        pixels: Pixels of the whole shape, those outside the picture too.
        visible: Pixels that are inside the picture and not covered.
    """

    label: int
    polygon: Floats
    pixels: int
    visible: int


def draw_picture(seed: int, split: str, index: int) -> tuple[npt.NDArray[np.uint8], list[Shape]]:
    """Draw picture ``index`` of a split; it depends on these three arguments alone.

    Returns:
        The picture, [H, W, 3] RGB uint8 with 160 <= H, W <= 256, and its objects, the lowest first.
    """
    draws = _Draws(seed, split, index)
    height, width = draws.integer(160, 256), draws.integer(160, 256)
    ground = draws.integers(50, 205, (3,))
    picture = _background(draws, height, width, ground)
    owner = np.zeros((height, width), np.int32)  # 0 is the background, k the k-th object
    shapes: list[Shape] = []
    kind = draws.uniform(0.0, 1.0)  # 4 % empty, 84 % with a few objects, 12 % crowded
    low, high = (0, 0) if kind < 0.04 else (1, 8) if kind < 0.88 else (9, MAX_OBJECTS)
    for _ in range(draws.integer(low, high)):
        label = draws.integer(0, len(CLASSES) - 1)
        for _ in range(_MAX_TRIES):
            if _place(draws, label, picture, owner, shapes, ground):
                break
    return picture.astype(np.uint8), shapes


def _background(draws: _Draws, height: int, width: int, ground: Ints) -> Ints:
    """A textured ground around one colour, [H, W, 3]; the pattern knows nothing of the objects."""
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    swing = draws.integer(6, 18)
    kind = draws.integer(0, 4)
    if kind == 0:  # grain
        relief = draws.integers(-swing // 2, swing // 2, (height, width))
    elif kind in (1, 2):  # stripes, checks
        cell = draws.integer(4, 24)
        cos, sin = draws.direction()
        relief = _parity((cos * x + sin * y) / cell)
        if kind == 2:
            relief = relief ^ _parity((cos * y - sin * x) / cell)
        relief = (2 * relief - 1) * swing // 2
    else:  # clouds, coarse (seen as a gradient) or fine
        cell = 96 if kind == 3 else draws.integer(12, 32)
        relief = _clouds(draws, height, width, cell, 2 * swing)
    clouds = _clouds(draws, height, width, 128, 24)
    tint = draws.integers(2, 6, (3,))  # quarters: the pattern has a slight hue
    pattern = (relief + clouds).astype(np.int16)[..., None]
    picture: Ints = (pattern * tint.astype(np.int16) >> 2) + ground.astype(np.int16)
    return picture.clip(0, 255)


def _clouds(draws: _Draws, height: int, width: int, cell: int, swing: int) -> Ints:
    """Random heights every ``cell`` px, linear in between, [H, W]."""
    knots = draws.integers(-swing, swing, (height // cell + 2, width // cell + 2))
    y, x = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    right, down = x % cell, (y % cell)[:, None]
    rows = knots[:, x // cell] * (cell - right) + knots[:, x // cell + 1] * right
    return (rows[y // cell] * (cell - down) + rows[y // cell + 1] * down) // (cell * cell)


def _place(
    draws: _Draws, label: int, picture: Ints, owner: Ints, shapes: list[Shape], ground: Ints
) -> bool:
    """Draw one object on ``picture``; False, and nothing drawn, where it would hide too much."""
    height, width = owner.shape
    # Root of the box's area: uniform within each of three octaves, so nearly log-uniform.
    size = 14 * 2 ** draws.integer(0, 2) * draws.uniform(1.0, 2.0)
    stretch = draws.uniform(0.8, 1.0)
    cos, sin = draws.direction()
    centre_x = draws.uniform(min(0.4 * size, width / 2), max(width - 0.4 * size, width / 2))
    centre_y = draws.uniform(min(0.4 * size, height / 2), max(height - 0.4 * size, height / 2))

    outline = _OUTLINES[CLASSES[label]]
    x, y = outline[:, 0], outline[:, 1] * stretch
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
    low, high = turned.min(axis=0), turned.max(axis=0)
    radius = float(size / np.sqrt((high[0] - low[0]) * (high[1] - low[1])))
    origin = np.array([centre_x, centre_y]) - radius * (low + high) / 2
    polygon = np.floor((origin + radius * turned) * 8 + 0.5) / 8

    left, top = np.floor(polygon.min(axis=0)).astype(int)
    right, bottom = np.ceil(polygon.max(axis=0)).astype(int)
    cover = coverage(polygon - (left, top), right - left, bottom - top)
    pixels = int((2 * cover >= _SUBSAMPLES**2).sum())
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    cover = cover[y0 - top : y1 - top, x0 - left : x1 - left]
    solid = 2 * cover >= _SUBSAMPLES**2
    window = owner[y0:y1, x0:x1]
    hidden = np.bincount(window[solid], minlength=len(shapes) + 1)[1:]
    visible = int(solid.sum())
    if visible < MIN_VISIBLE * pixels:
        return False
    if any(s.visible - h < MIN_VISIBLE * s.pixels for s, h in zip(shapes, hidden)):
        return False

    for shape, lost in zip(shapes, hidden):
        shape.visible -= int(lost)
    shapes.append(Shape(label, _clip(polygon, width, height), pixels, visible))
    window[solid] = len(shapes)
    first, second = _colours(draws, ground)
    dx = np.arange(x0, x1)[None, :] + 0.5 - origin[0]
    dy = np.arange(y0, y1)[:, None] + 0.5 - origin[1]
    cell = max(3.0, size * draws.uniform(0.12, 0.16))
    mix = _TEXTURES[CLASSES[label]](
        cos * dx + sin * dy, (cos * dy - sin * dx) / stretch, radius, cell
    )[..., None]
    colour = (((second - first) * mix + 128 >> 8) + first).astype(np.int16)
    under, part, whole = picture[y0:y1, x0:x1], cover[..., None], _SUBSAMPLES**2
    under += ((colour - under) * part + whole // 2) // whole
    return True


def _colours(draws: _Draws, ground: Ints) -> tuple[Ints, Ints]:
    """Two colours, [3] each, far from each other and from the ground; alike for all classes."""
    while True:
        first, second = draws.integers(0, 255, (2, 3))
        apart = [abs(a - b).sum() for a, b in ((first, second), (first, ground), (second, ground))]
        if min(apart) >= 170:
            return first, second


def coverage(polygon: Floats, width: int, height: int) -> Ints:
    """Sub-samples inside a polygon that does not cross itself, per pixel, [height, width], 0 to 16.

    An edge that crosses a column of sub-samples switches on (or off, if it runs the other way) all
    of them below; one running sum down the pixels adds these up.
    """
    n = _SUBSAMPLES
    x, y = polygon[:, 0] * n, polygon[:, 1] * n
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    columns = np.arange(width * n) + 0.5
    low, high = np.minimum(x, next_x)[:, None], np.maximum(x, next_x)[:, None]
    edge, column = np.nonzero((columns >= low) & (columns < high))
    run, rise = (next_x - x)[edge], (next_y - y)[edge]
    first = np.ceil(y[edge] + (columns[column] - x[edge]) * (rise / run) - 0.5).astype(np.int32)
    row, skipped = np.divmod(np.clip(first, 0, height * n), n)
    sign = np.where(run > 0, 1, -1)
    counts = np.zeros((height + 2) * width, np.int16)
    pixel = row * width + column // n
    np.add.at(counts, pixel, (sign * (n - skipped)).astype(np.int16))
    np.add.at(counts, pixel + width, (sign * skipped).astype(np.int16))
    steps = counts[: height * width].reshape(height, width)
    return np.abs(np.cumsum(steps, axis=0, dtype=np.int16))


def _clip(polygon: Floats, width: int, height: int) -> Floats:
    """Cut a polygon to the picture (Sutherland-Hodgman), [M, 2], rounded to 1/8 px."""
    if polygon.min() >= 0 and (polygon.max(axis=0) <= (width, height)).all():
        return polygon
    points = [(float(x), float(y)) for x, y in polygon]
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        kept: list[tuple[float, float]] = []
        for number, here in enumerate(points):
            before = points[number - 1]
            depth, depth_before = sign * (here[axis] - limit), sign * (before[axis] - limit)
            if (depth < 0) != (depth_before < 0):
                t = depth_before / (depth_before - depth)
                other = before[1 - axis] + t * (here[1 - axis] - before[1 - axis])
                kept.append((float(limit), other) if axis == 0 else (other, float(limit)))
            if depth >= 0:
                kept.append(here)
        points = kept
    return np.floor(np.array(points) * 8 + 0.5) / 8
