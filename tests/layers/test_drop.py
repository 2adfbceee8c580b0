"""layers/drop.py."""

from __future__ import annotations

import pytest
import torch

from mmdet_mobileformer.kernels import kernels_available, why_no_kernels
from mmdet_mobileformer.layers import Dropout

compiled = pytest.mark.skipif(not kernels_available(), reason=str(why_no_kernels()))


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_share_that_is_dropped_and_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = Dropout(0.3)(torch.ones(4, 50_001, dtype=dtype))
    kept = (y != 0).double()
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.7))
    # Four standard deviations of 200,004 draws, and of one row's.
    assert abs(float(kept.mean()) - 0.7) < 0.0041
    assert (kept.mean(dim=1) - 0.7).abs().max() < 0.0082


@compiled
def test_draws_are_independent_of_each_other() -> None:
    torch.manual_seed(0)
    drop, x = Dropout(0.5), torch.ones(100_000)
    draws = torch.stack([(drop(x) != 0).double() - 0.5 for _ in range(8)]) * 2
    together = draws @ draws.t() / draws.shape[1]
    assert (together - torch.eye(8)).abs().max() < 0.015
    for shift in (1, 16, 1 << 14):
        assert (draws[:, shift:] * draws[:, :-shift]).mean(dim=1).abs().max() < 0.015


@compiled
def test_the_generator_decides() -> None:
    drop, x = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first)
    assert not torch.equal(first, second)


@compiled
def test_threads_do_not_matter() -> None:
    drop, x, threads = Dropout(0.5), torch.ones(100_000), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(3)
            results.append(drop(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@compiled
def test_the_backward_pass_drops_the_same() -> None:
    x = torch.ones(33, 65, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_evaluation_changes_nothing() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
