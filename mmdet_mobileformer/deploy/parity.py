"""Does an exported file find what PyTorch finds?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample

from ..runtime.engine import Engine
from ..runtime.metadata import ModelInfo

#: Largest differences that rounding explains. Scores are 0 to 1, boxes shares of the picture's sides.
SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 2e-5
#: Queries that see their rivals, and maps that are read at boxes, enlarge rounding in a trained model. So a box
#: may be off by this multiple of what PyTorch's own rounding moves boxes of the same picture, up to a limit.
ROUNDINGS = 4.0
MOST_BOX_TOLERANCE = 3e-4

#: Boxes (N, Q, 4), scores (N, Q), labels (N, Q).
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Parity:
    """One comparison.

    Attributes:
        engine: What ran the file.
        shape: Batch, height, width of the input.
        score: Largest difference of a score.
        box: Largest difference of a box's side, in px of the input.
        allowed: What is rounding at most, in px of the input's shorter side.
        detections: How many were compared.
        missing: Detections of PyTorch without a counterpart within the tolerances.
    """

    engine: str
    shape: tuple[int, int, int]
    score: float
    box: float
    allowed: float
    detections: int
    missing: int


def drawn_images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pictures with edges and texture at all scales, RGB uint8 (N, H, W, 3)."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((batch, height, width, 3), dtype=np.float32)
    for cells in (3, 9, 40):
        coarse = generator.uniform(0, 255, (batch, cells, cells, 3)).astype(np.float32)
        rows = np.arange(height) * cells // height
        columns = np.arange(width) * cells // width
        picture += coarse[:, rows][:, :, columns] / 3
    return picture.round().astype(np.uint8)


def torch_detections(detector: Any, images: np.ndarray) -> Found:
    """What the detector itself finds, through its own preprocessor, head and selection.

    Args:
        detector: mmdet's detector.
        images: RGB uint8 (N, H, W, 3).

    Returns:
        Boxes (N, Q, 4) in px of the input, scores (N, Q), labels (N, Q).
    """
    height, width = images.shape[1:3]
    sample = {"img_shape": (height, width), "scale_factor": (1.0, 1.0)}
    # mmcv reads BGR.
    inputs = [
        torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))) for image in images
    ]
    samples = [DetDataSample(metainfo=dict(sample, ori_shape=(height, width))) for _ in inputs]
    with torch.no_grad():
        found = detector.test_step({"inputs": inputs, "data_samples": samples})
    boxes, scores, labels = (
        np.stack([getattr(result.pred_instances, key).numpy() for result in found])
        for key in ("bboxes", "scores", "labels")
    )
    return boxes, scores, labels


def compare(
    detector: Any, engine: Engine, info: ModelInfo, shapes: Sequence[tuple[int, int, int]]
) -> list[Parity]:
    """Compare a file with PyTorch on pictures of several sizes.

    A box may be off by :data:`BOX_TOLERANCE`, or by more where PyTorch's own boxes in float32 are off by more
    from those in float64 (:func:`box_tolerance`).

    Args:
        detector: mmdet's detector.
        engine: The loaded file.
        info: Its description.
        shapes: Batch, height, width of each input.
    """
    exact = copy.deepcopy(detector).double()
    rows = []
    for batch, height, width in shapes:
        images = drawn_images(batch, height, width)
        expected = torch_detections(detector, images)
        inputs = images.transpose(0, 3, 1, 2).astype(np.float32)
        if not info.normalized_inside:
            mean, std = (np.array(values).reshape(3, 1, 1) for values in (info.mean, info.std))
            inputs = (inputs - mean) / std
        side = np.array([width, height, width, height], dtype=np.float32)
        allowed = box_tolerance(expected, torch_detections(exact, images), side)
        boxes, scores, labels = engine.run(np.ascontiguousarray(inputs, dtype=np.float32))
        score, box, missing = match(expected, (boxes * side, scores, labels), side, allowed)
        in_px = allowed * min(height, width)
        shape = (batch, height, width)
        rows.append(Parity(engine.name, shape, score, box, in_px, expected[1].size, missing))
    return rows


def box_tolerance(expected: Found, exact: Found, side: np.ndarray) -> float:
    """How far a box may be off, as a share of the picture's sides, where rounding has moved PyTorch's so far.

    Args:
        expected: PyTorch's detections in float32, as of :func:`match`.
        exact: The same in float64.
        side: Width, height, width, height of the input.
    """
    _, moved, _ = match(exact, expected, side, MOST_BOX_TOLERANCE)
    rounding = ROUNDINGS * moved / float(side.min())
    return float(np.clip(rounding, BOX_TOLERANCE, MOST_BOX_TOLERANCE))


def match(
    expected: Found, found: Found, side: np.ndarray, box_share: float = BOX_TOLERANCE
) -> tuple[float, float, int]:
    """Pair detections of equal label one to one, as rounding may swap neighbours in score.

    Args:
        expected, found: Boxes (N, Q, 4) in px, scores (N, Q), labels (N, Q).
        side: Width, height, width, height of the input.
        box_share: How far a box may be off, as a share of these.

    Returns:
        Largest difference of score and of box (px) among pairs, and how many found no partner. A
        detection that rounding moved over the edge of the last rank is no loss.
    """
    score_off, box_off, missing = 0.0, 0.0, 0
    for boxes, scores, labels, boxes2, scores2, labels2 in zip(*expected, *found):
        free = np.ones(len(scores2), dtype=bool)
        for box, score, label in zip(boxes, scores, labels):
            apart = np.abs(boxes2 - box)
            fits = free & (labels2 == label) & (np.abs(scores2 - score) <= SCORE_TOLERANCE)
            fits &= (apart <= box_share * side).all(axis=1)
            if fits.any():
                best = np.where(fits, apart.max(axis=1), np.inf).argmin()
                free[best] = False
                score_off = max(score_off, float(abs(scores2[best] - score)))
                box_off = max(box_off, float(apart[best].max()))
            elif score - scores[-1] > SCORE_TOLERANCE:
                missing += 1
    return score_off, box_off, missing


def table(rows: Sequence[Parity]) -> str:
    """The comparisons as text."""
    lines = ["engine        batch x height x width   largest difference: score       box   allowed    missing"]
    for row in rows:
        size = " x ".join(str(side) for side in row.shape)
        lines.append(
            f"{row.engine:<12}  {size:>22}  {row.score:27.1e}  {row.box:5.3f} px"
            f"  {row.allowed:5.3f} px  {row.missing} of {row.detections}"
        )
    return "\n".join(lines)
