"""The comparison of two sets of detections sees what it should."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mmdet.models")

from mmdet_mobileformer.deploy.export import check_parity  # noqa: E402
from mmdet_mobileformer.deploy.parity import (  # noqa: E402
    BOX_TOLERANCE,
    MOST_BOX_TOLERANCE,
    ROUNDINGS,
    SCORE_TOLERANCE,
    Found,
    Parity,
    box_tolerance,
    drawn_images,
    match,
    table,
)

SIDE = np.float32([200, 100, 200, 100])


def detections() -> Found:
    boxes = np.float32([[[10, 10, 50, 60], [20, 20, 90, 80], [0, 0, 199, 99]]])
    return boxes, np.float32([[0.9, 0.8, 0.1]]), np.int64([[1, 0, 1]])


def changed(**parts: object) -> Found:
    """The detections with one entry replaced: part = (index, value)."""
    found = detections()
    for array, name in zip(found, ("box", "score", "label")):
        if name in parts:
            index, value = parts[name]  # type: ignore[misc]
            array[0, index] = value
    return found


def test_the_same() -> None:
    assert match(detections(), detections(), SIDE) == (0.0, 0.0, 0)


def test_rounding_is_measured() -> None:
    score, box, missing = match(detections(), changed(box=(0, [10.002, 10, 50, 60])), SIDE)
    assert (score, missing) == (0.0, 0) and box == pytest.approx(0.002, abs=1e-5)


def test_neighbours_may_swap() -> None:
    boxes, scores, labels = detections()
    scores[0, 1] = 0.9 - 1e-6
    order = [1, 0, 2]
    swapped = (boxes[:, order], scores[:, order], labels[:, order])
    assert match((boxes, scores, labels), swapped, SIDE) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"box": (1, [20 + 200 * 1.5 * BOX_TOLERANCE, 20, 90, 80])},
        {"score": (0, 0.9 - 1.5 * SCORE_TOLERANCE)},
        {"label": (0, 0)},
    ],
)
def test_what_is_elsewhere_is_missing(change: dict[str, object]) -> None:
    assert match(detections(), changed(**change), SIDE)[2] == 1


@pytest.mark.parametrize(
    ("moved", "share"),
    [
        (0.0, BOX_TOLERANCE),
        (0.1 * BOX_TOLERANCE, BOX_TOLERANCE),
        (2.0 * BOX_TOLERANCE, ROUNDINGS * 2.0 * BOX_TOLERANCE),
        (0.9 * MOST_BOX_TOLERANCE, MOST_BOX_TOLERANCE),
    ],
)
def test_what_is_rounding_is_measured_on_the_model(moved: float, share: float) -> None:
    other = changed(box=(2, [0, 0, 199, 99 - 100 * moved]))
    assert box_tolerance(other, detections(), SIDE) == pytest.approx(share, rel=0.1)
    found = changed(box=(1, [20 + 200 * 0.8 * share, 20, 90, 80]))
    assert match(detections(), found, SIDE, share)[2] == 0
    found = changed(box=(1, [20 + 200 * 1.2 * share, 20, 90, 80]))
    assert match(detections(), found, SIDE, share)[2] == 1


def test_a_partner_is_taken_once() -> None:
    boxes, scores, labels = detections()
    boxes[0, 1], scores[0, 1], labels[0, 1] = boxes[0, 0], scores[0, 0], labels[0, 0]
    assert match((boxes, scores, labels), detections(), SIDE)[2] == 1


def test_the_last_rank_may_go_to_another() -> None:
    other = changed(box=(2, [5, 5, 6, 6]))
    assert match(detections(), other, SIDE)[2] == 0


def test_a_mismatch_is_named() -> None:
    rows = [Parity("onnxruntime", (1, 64, 96), 1e-7, 1e-4, 0.001, 10, 0)]
    check_parity(rows)
    line = table(rows).splitlines()[1]
    assert line.startswith("onnxruntime") and "1 x 64 x 96" in line and "0 of 10" in line
    with pytest.raises(ValueError, match="openvino does not find .* at 2 x 65 x 97: 3 of 10"):
        check_parity([*rows, Parity("openvino", (2, 65, 97), 1e-7, 1e-4, 0.001, 10, 3)])
    with pytest.raises(ValueError, match="does not find"):
        check_parity([Parity("openvino", (2, 65, 97), float("nan"), 0.0, 0.001, 10, 0)])


def test_pictures_are_not_flat() -> None:
    pictures = drawn_images(2, 33, 57)
    assert pictures.shape == (2, 33, 57, 3) and pictures.dtype == np.uint8
    assert pictures.std(axis=(1, 2)).min() > 20 and not np.array_equal(*pictures)
