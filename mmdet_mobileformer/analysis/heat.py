"""Attention as colours: maps of weights, made to lie over a picture."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageEnhance

#: Longer side of a stored map, in cells: finer than an eye sees on a thumbnail.
MOST_CELLS = 64
_MAP = (colormaps["inferno"](np.linspace(0.15, 1.0, 256))[:, :3] * 255).round().astype(np.uint8)
#: Nothing shows where there is no weight; the strongest still lets the picture through.
_OPACITY = (np.linspace(0, 1, 256) ** 0.7 * 225).round().astype(np.uint8)


def levels(weights: np.ndarray, top: float, root: bool) -> np.ndarray:
    """Weights (H, W) as brightness 0 to 255, (H, W) uint8.

    Args:
        weights: Not negative.
        top: The weight of full brightness.
        root: Brightness goes with the square root, so that weak places show beside strong ones.
    """
    share = np.clip(weights / max(top, 1e-12), 0, 1)
    return np.asarray(np.round((np.sqrt(share) if root else share) * 255), dtype=np.uint8)


def heat_image(brightness: np.ndarray) -> Image.Image:
    """A palette image with transparency, a byte per cell; large maps are made smaller."""
    grey = Image.fromarray(brightness)
    if max(grey.size) > MOST_CELLS:
        scale = MOST_CELLS / max(grey.size)
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    image = Image.frombytes("P", grey.size, grey.tobytes())
    image.putpalette(_MAP.tobytes())
    image.info["transparency"] = _OPACITY.tobytes()
    return image


def dim(picture: Image.Image) -> Image.Image:
    """The picture dark and nearly grey, so that the heat is what one sees."""
    return ImageEnhance.Brightness(ImageEnhance.Color(picture).enhance(0.25)).enhance(0.55)


def laid_over(picture: Image.Image, brightness: np.ndarray) -> Image.Image:
    """The dimmed picture under the heat, in the picture's size."""
    heat = heat_image(brightness).convert("RGBA").resize(picture.size, Image.Resampling.BICUBIC)
    base = dim(picture).convert("RGBA")
    base.alpha_composite(heat)
    return base.convert("RGB")
