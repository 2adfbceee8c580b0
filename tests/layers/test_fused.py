"""layers/fused.py: the kernels of training against the modules that they stand in for."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mmdet_mobileformer.backbone import MobileFormer
from mmdet_mobileformer.kernels import kernels_available, why_no_kernels
from mmdet_mobileformer.layers import DynamicReLU, LiteBottleneck
from mmdet_mobileformer.layers import fused as module
from mmdet_mobileformer.layers.fused import fusible, separable

pytestmark = pytest.mark.skipif(not kernels_available(), reason=str(why_no_kernels()))


def parts(
    channels: int, filters: int, stride: int, dtype: torch.dtype, training: bool = True
) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d]:
    hidden = channels * filters
    conv = nn.Conv2d(channels, hidden, 3, stride, 1, groups=channels, bias=False)
    norm = norm_of(hidden).train(training)
    return conv.to(dtype), norm.to(dtype), nn.Conv2d(hidden, 4, 1, bias=False).to(dtype)


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm


def slopes(kind: str, channels: int, grid: tuple[int, int], dtype: torch.dtype) -> object:
    if kind == "relu6":
        return 6.0
    if kind == "relu":
        return math.inf
    tokens = 3 if kind == "mixed" else 1
    table = torch.randn(2, 2 * channels, tokens, dtype=dtype).requires_grad_()
    if kind == "first token":
        return table, None
    mixture = torch.randn(2, tokens, grid[0] * grid[1], dtype=dtype).softmax(1)
    return table, mixture.requires_grad_()


def plain_act(y: Tensor, act: object) -> Tensor:
    if not isinstance(act, tuple):
        return y.clamp(0, act)
    table, mixture = act
    per_position = table.unsqueeze(-1) if mixture is None else (table @ mixture).unflatten(2, y.shape[-2:])
    a1, a2 = per_position.chunk(2, dim=1)
    return torch.maximum(a1 * y, a2 * y)


def plain(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, act: object, point: nn.Conv2d,
          mask: Tensor | None, before: tuple | None) -> Tensor:
    if before is not None:
        x = plain_act(before[0](x), before[1])
    if mask is not None:
        x = x.masked_fill(mask.unsqueeze(1), 0.0)
    return point(plain_act(norm(conv(x)), act))


CASES = [
    # size, filters, stride, activation, activation before, padded, training
    ((5, 7), 1, 1, "mixed", "mixed", True, True),
    ((6, 8), 1, 1, "mixed", "mixed", False, False),
    ((9, 33), 1, 1, "first token", "first token", True, True),
    ((4, 5), 2, 2, "mixed", None, True, True),
    ((7, 18), 3, 2, "first token", None, False, True),
    ((17, 40), 4, 1, "relu", None, True, True),
    ((3, 6), 1, 1, "relu6", None, False, False),
    ((1, 2), 2, 2, "relu6", None, False, True),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_gradients_and_statistics_are_those_of_the_modules(
    case: tuple, dtype: torch.dtype, tolerance: float
) -> None:
    size, filters, stride, kind, kind_before, padded, training = case
    torch.manual_seed(0)
    conv, norm, point = parts(3, filters, stride, dtype, training)
    grid = ((size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1)
    act = slopes(kind, 3 * filters, grid, dtype)
    x = torch.randn(2, 3, *size, dtype=dtype).requires_grad_()
    mask = None
    if padded:
        mask = torch.zeros(2, *size, dtype=torch.bool)
        mask[0, :, size[1] // 2 :] = True
    before = None
    if kind_before is not None:
        before = (norm_of(3).to(dtype).train(training), slopes(kind_before, 3, size, dtype))
    norms = [norm, *([before[0]] if before else [])]
    twins = copy.deepcopy(norms)
    wanted = [x, conv.weight, point.weight]
    for item in (act, *(before or ())):
        wanted += [t for t in item if t is not None] if isinstance(item, tuple) else []

    expected = plain(x, conv, twins[0], act, point, mask, before and (twins[1], before[1]))
    found = separable(x, conv, norm, act, point, mask, before)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    weight = torch.randn_like(expected)
    params = [p for n in norms for p in n.parameters()], [p for n in twins for p in n.parameters()]
    ours = torch.autograd.grad((found * weight).sum(), wanted + params[0])
    theirs = torch.autograd.grad((expected * weight).sum(), wanted + params[1])
    largest = max(float(g.abs().max()) for g in theirs)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, atol=tolerance * largest, rtol=tolerance)
    for one, other in zip(norms, twins):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(training: bool) -> None:
    torch.manual_seed(0)
    conv, norm, point = parts(2, 1, 1, torch.float64, training)
    first = norm_of(2).double().train(training)
    act, act_before = (slopes("mixed", 2, (3, 4), torch.float64) for _ in range(2))
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, table: Tensor, mixture: Tensor, more: Tensor, shares: Tensor) -> Tensor:
        return separable(x, conv, norm, (table, mixture), point, before=(first, (more, shares)))

    torch.autograd.gradcheck(run, (x, *act, *act_before))


@pytest.mark.parametrize("dynamic_relu", ["spatial-aware", "first-token"])
@pytest.mark.parametrize("arch", ["508m", "26m"])
def test_the_backbone_trains_as_without_kernels(
    arch: str, dynamic_relu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MobileFormer(arch, dynamic_relu).double().train()
    for relu in (m for m in model.modules() if isinstance(m, DynamicReLU)):
        nn.init.normal_(relu.expand.weight, std=0.3)
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 67, 93, dtype=torch.float64)
    mask = torch.zeros(2, 67, 93, dtype=torch.bool)
    mask[0, :, 64:] = True
    results = []
    for backbone, loaded in ((model, True), (twin, False)):
        monkeypatch.setattr(module, "kernels_loaded", lambda loaded=loaded: loaded)
        outs = backbone(x, mask)
        sum(out.sin().sum() for out in outs).backward()
        results.append((outs, dict(backbone.named_parameters()), backbone.state_dict()))
    (ours, params, state), (theirs, twin_params, twin_state) = results
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(state, twin_state, atol=1e-10, rtol=1e-10)
    largest = max(float(p.grad.abs().max()) for p in twin_params.values() if p.grad is not None)
    for name, parameter in params.items():
        if twin_params[name].grad is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(
                parameter.grad, twin_params[name].grad, atol=1e-12 * largest, rtol=1e-8, msg=name
            )


def test_only_the_input_is_kept() -> None:
    """Of six maps as wide as the widest."""
    conv, norm, point = parts(4, 4, 1, torch.float32)
    x = torch.randn(2, 4, 8, 8).requires_grad_()
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        separable(x, conv, norm, math.inf, point)
    assert {tensor.data_ptr() for tensor in kept if tensor.numel() >= x.numel()} == {x.data_ptr()}


def lite() -> LiteBottleneck:
    from mmdet_mobileformer.archs import BlockSpec

    return LiteBottleneck(4, BlockSpec("lite", (2,), 4, 1)).train()


def test_a_module_with_a_hook_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x, seen = lite(), torch.randn(2, 4, 8, 8), []
    assert fusible(x, *block.modules())
    block.depthwise.bn.register_forward_hook(lambda *args: seen.append(args))
    assert not fusible(x, *block.modules())
    block(x, x)
    assert len(seen) == 1


def test_where_the_kernels_do_not_apply_the_modules_run() -> None:
    block, x = lite(), torch.randn(2, 4, 8, 8)
    assert not fusible(x.to(torch.bfloat16), *block.modules())
    assert not fusible(x.to("meta"), *block.modules())
    with torch.autocast("cpu", torch.bfloat16):
        assert not fusible(x, *block.modules())
    with torch.no_grad():
        assert not fusible(x, *block.modules())
    assert not fusible(x, *nn.SyncBatchNorm.convert_sync_batchnorm(block).modules())


def test_batchnorm_still_says_that_one_value_is_too_few() -> None:
    block = lite()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(torch.randn(1, 4, 1, 1), torch.zeros(0))


@pytest.mark.parametrize(("wide", "which", "products"), [(1, 0, 2), (1 << 62, 0, 0), (1 << 62, 1, 2)])
def test_gradients_of_a_pointwise_convolution(
    monkeypatch: pytest.MonkeyPatch, wide: int, which: int, products: int
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 24, 9, 13), torch.randn(8, 24, 1, 1)
    y = torch.conv2d(x.requires_grad_(), weight.requires_grad_())
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, weight), grad)[which]
    called: list[int] = []
    product = module.product
    monkeypatch.setattr(module, "WIDE", wide)
    monkeypatch.setattr(module, "product", lambda *args: called.append(1) or product(*args))
    found = module._pointwise_backward(grad, x.detach(), weight.detach(), which)
    assert len(called) == (products if module.has_onednn() else 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
