"""Boxes and names on a picture, with OpenCV alone."""

from __future__ import annotations

import colorsys
import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from .detector import Detections

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_colour(label: int) -> tuple[int, int, int]:
    """RGB of a class; neighbours in number are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 0.65 + 0.3 * (label % 2))
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(picture: np.ndarray, found: Detections) -> np.ndarray:
    """Draw boxes with names and scores, the best on top.

    Args:
        picture: RGB uint8 (H, W, 3); it is not changed.
        found: Detections in its pixels.

    Returns:
        RGB uint8 (H, W, 3).
    """
    canvas = picture.copy()
    height, width = canvas.shape[:2]
    # Lines and letters grow with the picture, so that they can be read when it is shown whole.
    line = max(1, round(max(height, width) / 400))
    scale = max(0.35, max(height, width) / 1600)
    for box, score, label in reversed(list(zip(found.boxes, found.scores, found.labels))):
        colour = class_colour(int(label))
        x1, y1, x2, y2 = (round(float(side)) for side in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line, cv2.LINE_AA)
        _tag(canvas, f"{found.classes[label]} {score:.2f}", (x1, y1), colour, scale, line)
    return canvas


def _tag(
    canvas: np.ndarray,
    text: str,
    corner: tuple[int, int],
    colour: tuple[int, int, int],
    scale: float,
    line: int,
) -> None:
    """A filled tag above the box, or inside it at the picture's upper edge."""
    thickness = max(1, round(line / 2))
    # OpenCV's letters are ASCII: others would be drawn as question marks.
    text = text.encode("ascii", "replace").decode()
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = 1 + line
    full = height + below + 2 * pad
    left = max(0, min(corner[0], canvas.shape[1] - width - 2 * pad))
    top = corner[1] - full if corner[1] >= full else corner[1]
    cv2.rectangle(canvas, (left, top), (left + width + 2 * pad, top + full), colour, cv2.FILLED)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    ink = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(
        canvas, text, (left + pad, top + pad + height), _FONT, scale, ink, thickness, cv2.LINE_AA
    )


def write_picture(file: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write RGB uint8 (H, W, 3) in the format of the file's ending.

    Raises:
        FileExistsError: If the file is there already.
        ValueError: If OpenCV does not write this ending.
    """
    path = Path(file)
    if path.exists():
        raise FileExistsError(f"{path} exists already: give a new file")
    try:
        fine, content = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error:
        fine = False
    if not fine:
        raise ValueError(f"{path}: OpenCV does not write pictures of this ending; use .jpg or .png")
    path.write_bytes(content.tobytes())
