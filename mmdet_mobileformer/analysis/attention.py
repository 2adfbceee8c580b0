"""What a detector looks at in one picture: the attention of its bridges, and the way of its queries.

The models are not changed: hooks keep what each bridge was called with, and the weights are computed
again from that, by the formulas of layers/attention.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..backbone import MobileFormer
from ..head import E2EMFHead
from ..layers import FormerToMobile, Look, MobileToFormer

Box = tuple[float, float, float, float]


@dataclass
class BlockMaps:
    """Both bridges of one of the backbone's blocks.

    Attributes:
        index: Which of the backbone's blocks, from 0.
        stride: Stride of the map that the tokens read.
        out_stride: Stride of the map that reads the tokens.
        to_former: Mobile→Former, (heads, T, H, W), a softmax over the positions.
        to_mobile: Mobile←Former, (heads, T, H', W'), a softmax over the tokens.
    """

    index: int
    stride: int
    out_stride: int
    to_former: np.ndarray
    to_mobile: np.ndarray


@dataclass
class Step:
    """A query after one block of the head.

    Attributes:
        name: Such as ``'1/32 block 2'``, or ``'start'`` for the box that the query begins with.
        box: x1, y1, x2, y2 in pixels of the picture.
        label: Class index; -1 at the start.
        score: In [0, 1]; 0 at the start.
        weights: Where the block's heads looked, (heads, H, W), a softmax over the positions; None at
            the start.
    """

    name: str
    box: Box
    label: int = -1
    score: float = 0.0
    weights: np.ndarray | None = None


@dataclass
class Query:
    """One query of the head, with its final class and score, and its steps."""

    index: int
    label: int
    score: float
    steps: list[Step]


@dataclass
class Seen:
    """All that was seen in one picture."""

    picture: Image.Image
    input_size: tuple[int, int]
    blocks: list[BlockMaps]
    queries: list[Query]
    classes: tuple[str, ...]
    title: str = ""


def to_former_weights(
    module: MobileToFormer,
    x: Tensor,
    tokens: Tensor,
    mask: Tensor | None = None,
    pos: Tensor | None = None,
    query_pos: Tensor | None = None,
    look: Look | None = None,
) -> Tensor:
    """Attention of Mobile→Former, (N, heads, T, H, W); the arguments are those of its forward."""
    located = tokens if query_pos is None else tokens + query_pos
    query = (module.query(located) * module.scale).unflatten(-1, (module.num_heads, -1))
    key = (x if pos is None else x + pos).flatten(2).unflatten(1, (module.num_heads, -1))
    scores = (query.transpose(1, 2) @ key)[:, module.told :]
    if look is not None:
        scores = scores + (look.queries @ look.keys).to(scores.dtype)
    if mask is not None:
        scores = scores.masked_fill(mask.flatten(1)[:, None, None], float("-inf"))
    shares = scores.softmax(dim=-1)
    if look is not None and look.shares is not None:
        told = look.shares.unsqueeze(1).expand(-1, module.told, -1, -1)
        shares = torch.cat((told.to(shares.dtype), shares), dim=1)
    return shares.unflatten(-1, x.shape[-2:])


def to_mobile_weights(
    module: FormerToMobile,
    x: Tensor,
    tokens: Tensor,
    pos: Tensor | None = None,
    query_pos: Tensor | None = None,
) -> Tensor:
    """Attention of Mobile←Former, (N, heads, T, H, W), which sums to one over the tokens T."""
    located = tokens if query_pos is None else tokens + query_pos
    key = (module.key(located) * module.scale).unflatten(-1, (module.num_heads, -1))
    query = (x if pos is None else x + pos).flatten(2).unflatten(1, (module.num_heads, -1))
    logits = key.transpose(1, 2) @ query
    return logits.softmax(dim=-2).unflatten(-1, x.shape[-2:])


@dataclass
class _Calls:
    """What the bridges of a model were called with, and what its head predicted."""

    bridges: dict[str, tuple[nn.Module, dict[str, Any]]] = field(default_factory=dict)
    predictions: tuple[Tensor, Tensor] | None = None
    input_size: tuple[int, int] = (0, 0)

    def watch(self, model: nn.Module) -> list[Any]:
        """Hook into the model; returns the handles."""
        handles: list[Any] = []
        for name, module in model.named_modules():
            if isinstance(module, (MobileToFormer, FormerToMobile)):
                hook = self._bridge(name)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            elif isinstance(module, E2EMFHead):
                handles.append(module.register_forward_hook(self._head))
            elif isinstance(module, MobileFormer):
                handles.append(module.register_forward_pre_hook(self._backbone))
        return handles

    def _bridge(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            self.bridges[name] = (module, dict(bound.arguments))

        return hook

    def _head(self, module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        self.predictions = output

    def _backbone(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.input_size = (args[0].shape[-1], args[0].shape[-2])

    def weights(self, name: str) -> Tensor:
        """Attention (heads, T, H, W) of the first image at the bridge of that name."""
        module, arguments = self.bridges[name]
        if isinstance(module, MobileToFormer):
            return to_former_weights(module, **arguments)[0]
        return to_mobile_weights(module, **arguments)[0]  # type: ignore[arg-type]


@torch.no_grad()
def look_at(inferencer: Any, picture: str | Path, queries: int = 6) -> Seen:
    """Run a detector on one picture and keep what it looks at.

    Args:
        inferencer: As :func:`mmdet_mobileformer.analysis.inference.make_inferencer` makes it.
        picture: A file.
        queries: How many of the head's queries to follow, those of the highest scores.

    Raises:
        ValueError: If the detector has no Mobile-Former backbone.
    """
    from .pictures import read_picture

    model = inferencer.model
    if not isinstance(model.backbone, MobileFormer):
        raise ValueError(
            f"the detector's backbone is {type(model.backbone).__name__}: only Mobile-Former has "
            "bridges to look at"
        )
    calls = _Calls()
    handles = calls.watch(model)
    try:
        inferencer(str(picture), return_datasamples=True)
    finally:
        for handle in handles:
            handle.remove()
    image = read_picture(picture)
    classes = tuple(model.dataset_meta["classes"])
    followed = []
    if isinstance(model.bbox_head, E2EMFHead) and calls.predictions is not None:
        followed = _follow(calls, model.bbox_head, image.size, queries)
    return Seen(image, calls.input_size, _blocks(calls, model.backbone), followed, classes)


def _blocks(calls: _Calls, backbone: MobileFormer) -> list[BlockMaps]:
    found = []
    for index in range(len(backbone.blocks)):
        prefix = f"backbone.blocks.{index}."
        if f"{prefix}mobile_to_former" not in calls.bridges:
            continue  # the first block has no bridges
        reads = calls.weights(f"{prefix}mobile_to_former")
        gives = calls.weights(f"{prefix}former_to_mobile")
        stride, out_stride = (
            _stride(calls.input_size[0], weights.shape[-1]) for weights in (reads, gives)
        )
        found.append(BlockMaps(index, stride, out_stride, _array(reads), _array(gives)))
    return found


def _follow(calls: _Calls, head: E2EMFHead, size: tuple[int, int], count: int) -> list[Query]:
    if calls.predictions is None:
        return []
    logits, boxes = (part[:, 0].float() for part in calls.predictions)
    probabilities = logits.sigmoid() if head.loss_cls.use_sigmoid else logits.softmax(-1)[..., :-1]
    scores, labels = probabilities.max(dim=-1)
    corners = _corners(boxes, size)
    names, bridges = _head_steps(head)
    best = scores[-1].argsort(descending=True)[:count].tolist()
    attention = [calls.weights(bridge)[:, best] for bridge in bridges]
    found = []
    for rank, query in enumerate(best):
        steps = []
        if head.reference_boxes:
            start = _corners(head.grid[query].sigmoid(), size)
            steps.append(Step("start", _box(start)))
        for k, name in enumerate(names):
            weights = _array(attention[k][:, rank])
            box, label = _box(corners[k, query]), int(labels[k, query])
            steps.append(Step(name, box, label, float(scores[k, query]), weights))
        found.append(Query(query, int(labels[-1, query]), float(scores[-1, query]), steps))
    return found


def _head_steps(head: E2EMFHead) -> tuple[list[str], list[str]]:
    """Names of the predictions, in their order, and of the bridges that each comes after."""
    names, bridges = [], []
    for scale, (module, stride) in enumerate(zip(head.scales, head.scale_strides)):
        for block in range(len(module.blocks)):  # type: ignore[arg-type]
            names.append(f"1/{stride} block {block + 1}")
            bridges.append(f"bbox_head.scales.{scale}.blocks.{block}.mobile_to_former")
    if head.closing is not None:
        names.append(f"1/{head.scale_strides[-1]} closing")
        bridges.append("bbox_head.closing")
    return names, bridges


def _corners(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised (cx, cy, w, h) to x1, y1, x2, y2 in pixels, inside the picture."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    corners = torch.cat((centre - half, centre + half), dim=-1).clamp(0, 1)
    return corners * corners.new_tensor((*size, *size))


def _box(corners: Tensor) -> Box:
    x1, y1, x2, y2 = corners.tolist()
    return x1, y1, x2, y2


def _stride(pixels: int, cells: int) -> int:
    return int(2 ** round(math.log2(pixels / cells)))


def _array(weights: Tensor) -> np.ndarray:
    array: np.ndarray = weights.float().cpu().numpy()
    return array


def over_uniform(weights: np.ndarray) -> float:
    """How many times the largest weight of a map (H, W) is that of looking everywhere alike."""
    return float(weights.max() * weights.size)
