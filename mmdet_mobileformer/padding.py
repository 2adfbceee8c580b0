"""Where the images of a batch are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def padding_mask(batch_data_samples: Sequence[Any] | None, batch_inputs: Tensor) -> Tensor | None:
    """Padding mask of a batch from its data samples.

    Args:
        batch_data_samples: mmdet's data samples, whose ``img_shape`` is the valid size; or None.
        batch_inputs: Images or any tensor on their device.

    Returns:
        (N, H, W), True where padded; None if nothing is padded.
    """
    if not batch_data_samples:
        return None
    height, width = batch_data_samples[0].batch_input_shape
    shapes = [sample.img_shape[:2] for sample in batch_data_samples]
    if all(tuple(shape) == (height, width) for shape in shapes):
        return None
    mask = torch.ones(len(shapes), height, width, dtype=torch.bool, device=batch_inputs.device)
    for index, (valid_height, valid_width) in enumerate(shapes):
        mask[index, :valid_height, :valid_width] = False
    return mask
