"""How far an image's boxes and scores depend on the padding around it and on its neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

#: Valid sizes (height, width) that are multiples of 32, where nothing may leak, and others.
EVEN_SIZES = ((64, 96), (160, 128), (224, 320))
OTHER_SIZES = ((65, 97), (100, 150), (150, 100), (213, 319), (333, 250))
#: Padding to these multiples, beside the neighbour's size, in pixels.
CANVAS = (352, 416)


@dataclass
class Leak:
    """What one valid size loses by padding.

    Attributes:
        size: Valid height and width, in pixels.
        canvas: Height and width with padding.
        scores: Largest absolute difference of a class probability.
        boxes: Largest absolute difference of a box coordinate, as a share of the image's side.
    """

    size: tuple[int, int]
    canvas: tuple[int, int]
    scores: float
    boxes: float


def shift_statistics(model: nn.Module, seed: int = 0) -> None:
    """Give every BatchNorm of a fresh model statistics and biases as training would leave them.

    With mean 0 and bias 0 the padding, which is zeros, would stay zeros by chance and leak nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                if values is not None:
                    values.data.uniform_(-1, 1, generator=generator)


def _predict(model: Any, images: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    canvas = (images.shape[-2], images.shape[-1])
    samples = []
    for size in sizes:
        meta = dict(img_shape=size, batch_input_shape=canvas, ori_shape=size, scale_factor=(1.0, 1.0))
        samples.append(DetDataSample(metainfo=meta))
    with torch.no_grad():
        logits, boxes = model(images, samples)
    sigmoid = model.bbox_head.loss_cls.use_sigmoid
    return (logits[-1].sigmoid() if sigmoid else logits[-1].softmax(-1)), boxes[-1]


def padding_leaks(
    model: Any,
    sizes: Iterable[tuple[int, int]] = EVEN_SIZES + OTHER_SIZES,
    canvas: tuple[int, int] = CANVAS,
    seed: int = 0,
) -> list[Leak]:
    """Compare each image alone with the same image in the corner of a batch beside a larger one.

    Args:
        model: An E2EMF in evaluation mode; double precision leaves rounding out of the result.
        sizes: Valid (height, width) in pixels, at least 32 and at most the canvas.
        canvas: Height and width of the batch.
        seed: Seed of the images, normal noise.

    Returns:
        One :class:`Leak` per size, in the order given.
    """
    generator = torch.Generator().manual_seed(seed)
    like = next(model.parameters())
    leaks = []
    for size in sizes:
        image = torch.randn(1, 3, *size, generator=generator).to(like)
        # Padding that is not zero: whoever reads it is seen.
        batch = torch.randn(2, 3, *canvas, generator=generator).to(like)
        batch[:1, :, : size[0], : size[1]] = image
        alone = _predict(model, image, [size])
        together = _predict(model, batch, [size, canvas])
        scores, boxes = (
            float((a[0] - t[0]).abs().max()) for a, t in zip(alone, together)
        )
        leaks.append(Leak(size, canvas, scores, boxes))
    return leaks
