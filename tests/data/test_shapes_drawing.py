"""Objects are drawn where their annotation says."""

from __future__ import annotations

import numpy as np
import pytest

from mmdet_mobileformer.data.shapes import SEED
from mmdet_mobileformer.data.shapes_drawing import coverage, draw_picture


def test_coverage_of_a_known_polygon() -> None:
    """A 2 x 1.5 px rectangle at (1, 1): full, half and empty pixels; a triangle's total area."""
    rectangle = np.array([(1.0, 1.0), (3.0, 1.0), (3.0, 2.5), (1.0, 2.5)])
    expected = np.zeros((4, 5), int)
    expected[1, 1:3], expected[2, 1:3] = 16, 8
    assert np.array_equal(coverage(rectangle, 5, 4), expected)
    triangle = np.array([(2.0, 1.0), (42.0, 6.0), (11.0, 37.0)])
    area = (40 * 36 - 5 * 9) / 2
    assert coverage(triangle, 50, 50).sum() / 16 == pytest.approx(area, rel=0.01)


def test_objects_are_painted_where_the_annotation_says() -> None:
    """Inside the polygons pixels are far from the ground's colour, outside they are near it."""
    inside, outside = [], []
    for index in range(1, 40):
        picture, objects = draw_picture(SEED, "val", index)
        height, width = picture.shape[:2]
        cover = np.zeros((height, width), bool)
        for shape in objects:
            cover |= coverage(shape.polygon, width, height) > 0
        if not objects or cover.mean() > 0.5:
            continue
        ground = np.median(picture[~cover], axis=0)
        distance = np.abs(picture - ground).sum(axis=2)
        inside.append(float(distance[cover].mean()))
        outside.append(float(np.percentile(distance[~cover], 99)))
    assert len(inside) > 15
    assert np.mean(inside) > 150 and np.max(outside) < 170
