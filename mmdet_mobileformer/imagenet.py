"""The ImageNet recipes as data: what the paper trains each Mobile-Former with.

From the paper's appendix (arXiv 2108.05895v3) and the official training commands. All of them: 8
GPUs x 128 images, 450 epochs, AdamW, a cosine schedule, RandAugment with magnitude 9 and deviation
0.5, neither colour jitter nor drop path. Dropout stands in :data:`~mmdet_mobileformer.archs.ARCHS`.
The configs in ``configs/imagenet`` are checked against this table.
"""

from __future__ import annotations

from typing import NamedTuple

EPOCHS = 450
GPUS = 8
BATCH_PER_GPU = 128


class Recipe(NamedTuple):
    """What differs from arch to arch.

    Attributes:
        lr: Peak learning rate at 1024 images.
        weight_decay: AdamW's weight decay.
        mixup: Alpha of mixup; 0 is none.
        random_erase: Probability of erasing a random rectangle.
        rand_augment: Whether RandAugment is used.
    """

    lr: float
    weight_decay: float
    mixup: float
    random_erase: float
    rand_augment: bool


RECIPES: dict[str, Recipe] = {
    "508m": Recipe(1e-3, 0.20, mixup=0.2, random_erase=0.2, rand_augment=True),
    "294m": Recipe(1e-3, 0.20, mixup=0.2, random_erase=0.2, rand_augment=True),
    "214m": Recipe(9e-4, 0.15, mixup=0.2, random_erase=0.2, rand_augment=True),
    "151m": Recipe(9e-4, 0.10, mixup=0.2, random_erase=0.2, rand_augment=True),
    "96m": Recipe(8e-4, 0.10, mixup=0.0, random_erase=0.0, rand_augment=True),
    "52m": Recipe(8e-4, 0.10, mixup=0.2, random_erase=0.0, rand_augment=False),
    "26m": Recipe(8e-4, 0.08, mixup=0.2, random_erase=0.0, rand_augment=True),
}
