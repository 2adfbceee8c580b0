"""A small set of pictures in class folders, the layout of ImageNet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("checks", "stripes")


def make_image_folder(root: Path, train: int = 16, val: int = 8, size: int = 72) -> Path:
    """Write train/CLASS/*.png and val/CLASS/*.png with noisy textures; returns `root`."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] // 6 % 2
    textures = {"checks": x ^ y, "stripes": x}
    for split, count in (("train", train), ("val", val)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                low, high = sorted(generator.integers(0, 255, 2).tolist())
                picture = low + textures[name][..., None] * (high - low)
                picture = picture + generator.integers(-20, 20, (size, size, 3))
                cv2.imwrite(str(folder / f"{index}.png"), picture.clip(0, 255).astype(np.uint8))
    return root
