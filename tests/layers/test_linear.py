"""layers/linear.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmdet_mobileformer.kernels import kernels_available, why_no_kernels
from mmdet_mobileformer.layers import Linear, linear, use_onednn
from mmdet_mobileformer.layers.linear import _Linear
from mmdet_mobileformer.layers.onednn import has_onednn

compiled = pytest.mark.skipif(
    not (kernels_available() and has_onednn()), reason=str(why_no_kernels() or "torch without oneDNN")
)


def results(product: object, shape: tuple[int, ...], width: int, slices: bool = False) -> list[Tensor]:
    """Value and gradients of a function of input, weight and bias."""
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(3 * width, shape[-1]) / shape[-1] ** 0.5
    bias = torch.randn(3 * width)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    at = slice(width, 2 * width) if slices else slice(None)
    y = product(x, weight[at], bias[at])  # type: ignore[operator]
    return [y, *torch.autograd.grad(y.sin().sum(), leaves)]


@compiled
@pytest.mark.parametrize("slices", [False, True])
@pytest.mark.parametrize("shape", [(2, 100, 64), (300, 64), (2, 3, 70, 64), (1, 200, 57)])
def test_value_and_gradients(shape: tuple[int, ...], slices: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = results(nn.functional.linear, shape, 256, slices)
    called: list[int] = []
    apply = _Linear.apply
    monkeypatch.setattr(_Linear, "apply", lambda *args: called.append(1) or apply(*args))
    found = results(linear, shape, 256, slices)
    assert called == [1]
    for ours, its in zip(found, expected):
        torch.testing.assert_close(ours, its, rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.parametrize("shape", [(100, 128), (2, 50, 128), (1, 100, 128), (100, 1, 128)])
def test_the_result_can_be_changed_in_place(shape: tuple[int, ...]) -> None:
    layer, x = Linear(128, 256), torch.randn(shape)
    expected = torch.autograd.grad(nn.functional.linear(x, layer.weight, layer.bias).relu().sum(), layer.weight)
    found = torch.autograd.grad(layer(x).relu_().sum(), layer.weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@compiled
def test_only_what_is_asked_for() -> None:
    layer = Linear(128, 256)
    layer.weight.requires_grad_(False)
    layer(torch.randn(100, 128)).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, torch.full((256,), 100.0))


@compiled
@pytest.mark.parametrize("case", ["small", "double", "inference", "autocast"])
def test_where_torch_s_own_product_runs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("oneDNN was asked")

    monkeypatch.setattr(_Linear, "apply", refuse)
    layer, x = Linear(128, 256), torch.randn(2 if case == "small" else 100, 128)
    if case == "double":
        layer, x = layer.double(), x.double()
    with torch.set_grad_enabled(case != "inference"), torch.autocast("cpu", enabled=case == "autocast"):
        assert layer(x).dtype == {"double": torch.float64, "autocast": torch.bfloat16}.get(case, torch.float32)


def test_layers_of_others_keep_their_weights() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.MultiheadAttention(4, 2))
    state = {key: value.clone() for key, value in module.state_dict().items()}
    use_onednn(module)
    assert type(module[0]) is Linear and type(module[1].out_proj) is Linear
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
