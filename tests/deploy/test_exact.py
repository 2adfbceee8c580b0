"""Operators in place of torch's: the same numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmdet_mobileformer.deploy.exact import ExactOperators, pooling_matrix


def test_pooling_is_torchs_for_every_size() -> None:
    for size in range(1, 41):
        eye = torch.eye(size).unsqueeze(0)
        for out_size in range(1, size + 3):
            expected = F.adaptive_avg_pool1d(eye, out_size)[0].T
            torch.testing.assert_close(pooling_matrix(size, out_size), expected)


@pytest.mark.parametrize(("height", "width"), [(25, 34), (24, 33), (2, 3), (7, 7)])
def test_pooling_of_maps(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float32)
    size = ((height + 1) // 2, (width + 1) // 2)
    expected = F.adaptive_avg_pool2d(x, size)
    with ExactOperators():
        torch.testing.assert_close(F.adaptive_avg_pool2d(x, size), expected)


def test_unflatten_is_torchs() -> None:
    x = torch.randn(2, 12, 5)
    for dim, sizes in ((1, (3, 4)), (-2, (3, -1)), (2, (5, 1)), (-1, x.shape[-1:])):
        expected = x.unflatten(dim, sizes)
        with ExactOperators():
            assert torch.equal(x.unflatten(dim, sizes), expected)
