"""layers/dynamic_relu.py."""

from __future__ import annotations

import pytest
import torch

from mmdet_mobileformer.kernels import kernels_available, why_no_kernels
from mmdet_mobileformer.layers import DynamicReLU
from mmdet_mobileformer.layers.dynamic_relu import _mix, _MixedSlopes


def inputs(mixed: bool, dtype: torch.dtype = torch.float64) -> tuple:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 4, dtype=dtype, requires_grad=True)
    table = torch.randn(2, 6, 3 if mixed else 1, dtype=dtype, requires_grad=True)
    mixture = torch.randn(2, 3, 8, dtype=dtype).softmax(1).requires_grad_() if mixed else None
    return x, table, mixture


def plain(x: torch.Tensor, table: torch.Tensor, mixture: torch.Tensor | None) -> torch.Tensor:
    a1, a2 = _mix(table, mixture, x).chunk(2, dim=1)
    return torch.maximum(a1 * x, a2 * x)


@pytest.mark.parametrize("mixed", [True, False])
def test_gradients_are_those_of_finite_differences(mixed: bool) -> None:
    torch.autograd.gradcheck(_MixedSlopes.apply, inputs(mixed))


@pytest.mark.parametrize("mixed", [True, False])
def test_gradients_are_those_of_the_plain_form_in_float32(mixed: bool) -> None:
    args = inputs(mixed, torch.float32)
    wanted = [arg for arg in args if arg is not None]
    weight = torch.randn(2, 3, 2, 4)
    expected = torch.autograd.grad((plain(*args) * weight).sum(), wanted)
    found = torch.autograd.grad((_MixedSlopes.apply(*args) * weight).sum(), wanted)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mixed", [True, False])
def test_training_and_inference_compute_the_same(mixed: bool) -> None:
    torch.manual_seed(0)
    relu = DynamicReLU(8, 16)
    torch.nn.init.normal_(relu.expand.weight)
    x, tokens = torch.randn(2, 8, 4, 5), torch.randn(2, 3, 16)
    mixture = torch.randn(2, 3, 20).softmax(1) if mixed else None
    with torch.no_grad():
        expected = relu(x, tokens, mixture)
    torch.testing.assert_close(relu(x, tokens, mixture), expected, atol=0, rtol=0)


@pytest.mark.skipif(not kernels_available(), reason=str(why_no_kernels()))
@pytest.mark.parametrize("tokens", [1, 3, 4, 6])
@pytest.mark.parametrize("size", [(2, 4), (23, 47)])
def test_compiled_gradients_are_those_of_the_plain_form(tokens: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 5, *size, requires_grad=True)
    table = torch.randn(2, 10, tokens, requires_grad=True)
    mixture = torch.randn(2, tokens, size[0] * size[1]).softmax(1).requires_grad_()
    weight = torch.randn_like(x)
    wanted = (x, table, mixture)
    y, expected_y = _MixedSlopes.apply(*wanted), plain(*wanted)
    torch.testing.assert_close(y, expected_y)
    expected = torch.autograd.grad((expected_y * weight).sum(), wanted)
    found = torch.autograd.grad((y * weight).sum(), wanted)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_bf16_autocast_trains() -> None:
    relu = DynamicReLU(8, 16)
    x, tokens = torch.randn(2, 8, 4, 5, requires_grad=True), torch.randn(2, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = relu(x.to(torch.bfloat16), tokens, torch.randn(2, 3, 20).softmax(1))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(torch.isfinite(p.grad).all() for p in relu.parameters() if p.grad is not None)
