"""From a picture file to the model's input, as MMDetection does it: OpenCV decodes and resizes.

OpenCV turns a picture upright by its EXIF orientation and makes grey, transparent and 16-bit files
8-bit colour; mmcv's LoadImageFromFile relies on the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from .metadata import ModelInfo

#: Smallest side of the network's input, in px: below it stride 32 has no cell.
MIN_SIZE = 32


def read_picture(file: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture, upright.

    Returns:
        RGB uint8 (H, W, 3).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If OpenCV cannot decode it.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"picture {os.fspath(file)} does not exist")
    content = np.fromfile(file, dtype=np.uint8)
    try:
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error:  # a size beyond OpenCV's limit
        decoded = None
    if decoded is None:
        raise ValueError(f"{os.fspath(file)} is no picture that OpenCV reads, or is damaged")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def check_picture(picture: np.ndarray) -> np.ndarray:
    """A picture given as an array, one piece in memory.

    Raises:
        ValueError: If it is not RGB uint8 (H, W, 3).
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(
            f"a picture is an array of RGB, uint8, (height, width, 3), not {picture.dtype} "
            f"{picture.shape}"
        )
    return np.ascontiguousarray(picture)


def input_size(height: int, width: int, info: ModelInfo) -> tuple[int, int]:
    """Height and width to which a picture is resized, by the rule of MMDetection's Resize.

    Raises:
        ValueError: If a side becomes smaller than the network takes.
    """
    if info.keep_ratio:
        factor = min(max(info.scale) / max(height, width), min(info.scale) / min(height, width))
        size = int(height * float(factor) + 0.5), int(width * float(factor) + 0.5)
    else:
        size = info.scale[1], info.scale[0]
    if min(size) < MIN_SIZE:
        raise ValueError(
            f"a picture of {width} x {height} px becomes {size[1]} x {size[0]} and the network takes "
            f"{MIN_SIZE} x {MIN_SIZE} at least: crop it to a less narrow one"
        )
    return size


def network_input(picture: np.ndarray, info: ModelInfo) -> np.ndarray:
    """RGB uint8 (H, W, 3) to the model's input, float32 (3, H', W')."""
    height, width = input_size(*picture.shape[:2], info)
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    image = resized.astype(np.float32)
    if not info.normalized_inside:
        image = (image - np.float32(info.mean)) / np.float32(info.std)
    return np.ascontiguousarray(image.transpose(2, 0, 1))
