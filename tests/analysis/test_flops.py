"""Counts of analysis/flops.py against closed formulas, exactly."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mmdet_mobileformer.analysis.flops import count, model_from_config

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "analysis_tools" / "get_flops.py"
H, W = 33, 41  # odd on purpose: nothing may be padded
DEVICES = ["meta", "cpu"]


class Attention(nn.Module):
    """Self-attention over the pixels of a projected image, computed in one of several ways."""

    def __init__(self, how: str, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.how, self.heads = how, heads
        self.proj = nn.Conv2d(3, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x).flatten(2)  # [B, C, N]
        x = x.unflatten(1, (self.heads, -1)).transpose(2, 3)  # [B, h, N, C/h]
        if self.how == "matmul":
            return (x @ x.transpose(2, 3)).softmax(-1) @ x
        if self.how == "einsum":
            weights = torch.einsum("bhqc,bhkc->bhqk", x, x).softmax(-1)
            return torch.einsum("bhqk,bhkc->bhqc", weights, x)
        if self.how == "baddbmm":
            flat = x.flatten(0, 1)
            bias = flat.new_zeros(1)
            return torch.baddbmm(bias, flat, flat.transpose(1, 2)).softmax(-1) @ flat
        mask = x.new_zeros(x.shape[2], x.shape[2]) if self.how == "sdpa-mask" else None
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["matmul", "einsum", "baddbmm", "sdpa", "sdpa-mask"])
def test_attention_is_counted_however_it_is_computed(how: str, device: str) -> None:
    result = count(Attention(how), (H, W), batch=2, device=device)
    n = H * W
    assert result.madds["proj"] == 2 * n * 3 * 16
    assert result.total_madds == 2 * (n * 3 * 16 + 2 * n * n * 16)
    assert result.uncounted == []


class Pooled(nn.Module):
    """The columns of an image [B, 3, H, W] as W tokens of width 3H, for what takes tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(1, 2).transpose(1, 2)
        if isinstance(self.inner, nn.MultiheadAttention):
            return self.inner(tokens, tokens, tokens, need_weights=self.need_weights)[0]
        return self.inner(tokens)

    need_weights = False


MHA_WIDTH, MHA_TOKENS = 3 * 32, 40
MHA_MADDS = 4 * MHA_TOKENS * MHA_WIDTH**2 + 2 * MHA_TOKENS**2 * MHA_WIDTH


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_in_evaluation(need_weights: bool, device: str) -> None:
    module = Pooled(nn.MultiheadAttention(MHA_WIDTH, 4, batch_first=True))
    module.need_weights = need_weights
    result = count(module, (32, MHA_TOKENS), batch=2, device=device)
    assert result.total_madds == 2 * MHA_MADDS
    if device == "cpu":  # the fast path must really have been taken, or its formula is untested
        assert "aten._native_multi_head_attention" in result.by_operator


class AlwaysTraining(nn.MultiheadAttention):
    def train(self, mode: bool = True) -> AlwaysTraining:
        super().train(True)
        return self


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_in_training(need_weights: bool, device: str) -> None:
    module = Pooled(AlwaysTraining(MHA_WIDTH, 4, batch_first=True))
    module.need_weights = need_weights
    result = count(module, (32, MHA_TOKENS), batch=2, device=device)
    assert result.total_madds == 2 * MHA_MADDS
    assert "aten._native_multi_head_attention" not in result.by_operator


@pytest.mark.parametrize("device", DEVICES)
def test_transformer_encoder_layer(device: str) -> None:
    module = Pooled(nn.TransformerEncoderLayer(MHA_WIDTH, 4, 50, batch_first=True))
    result = count(module, (32, MHA_TOKENS), device=device)
    assert result.total_madds == MHA_MADDS + 2 * MHA_TOKENS * MHA_WIDTH * 50


def test_encoder_layer_fast_path_formula() -> None:
    # Hooks keep the layer off its fast path inside count(): call the operator itself.
    from torch.utils.flop_counter import FlopCounterMode

    from mmdet_mobileformer.analysis.flops import FORMULAS

    layer = nn.TransformerEncoderLayer(MHA_WIDTH, 4, 50, batch_first=True).eval()
    a, x = layer.self_attn, torch.randn(2, MHA_TOKENS, MHA_WIDTH)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.no_grad(), counter:
        torch._transformer_encoder_layer_fwd(
            x, MHA_WIDTH, 4, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias,
            False, False, 1e-5, layer.norm1.weight, layer.norm1.bias, layer.norm2.weight,
            layer.norm2.bias, layer.linear1.weight, layer.linear1.bias, layer.linear2.weight,
            layer.linear2.bias,
        )  # fmt: skip
    assert counter.get_total_flops() == 4 * (MHA_MADDS + 2 * MHA_TOKENS * MHA_WIDTH * 50)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("conv", "madds"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), H * W * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), math.ceil(H / 2) * math.ceil(W / 2) * 8 * 3 * 9),
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), H * W * 3 * 9),
        (nn.Conv2d(3, 6, 5, padding=2, groups=3, bias=False), H * W * 6 * 25),
        (nn.ConvTranspose2d(3, 6, 2, stride=2), H * W * 3 * 6 * 4),
    ],
)
def test_convolution_respects_stride_and_groups(conv: nn.Module, madds: int, device: str) -> None:
    assert count(conv, (H, W), device=device).total_madds == madds


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool, device: str) -> None:
    result = count(nn.Linear(W, 7, bias=bias), (H, W), batch=2, device=device)
    assert result.total_madds == 2 * 3 * H * W * 7
    assert result.total_params == W * 7 + 7 * bias


class VectorProducts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[0, 0]  # [H, W]
        y = torch.addmv(rows[:, 0], rows, rows[0]) + rows @ rows[0]
        return y @ y


@pytest.mark.parametrize("device", DEVICES)
def test_products_with_vectors(device: str) -> None:
    assert count(VectorProducts(), (H, W), device=device).total_madds == 2 * H * W + H


class CallsForward(nn.Module):
    """Calls its child as mmdet calls heads, past the hooks; two parts share a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        self.again = nn.Sequential(self.head[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.head.forward(x)).flatten(1) @ x.new_zeros(3 * H * W, 1)


def test_parts_add_up() -> None:
    model = CallsForward().train()
    result = count(model, (H, W))
    n = H * W
    assert result.madds["head"] == 3 * n * 9  # head.0 twice: it is counted under its first name
    assert result.total_madds == 3 * n * 9 + 3 * n  # and the model's own product
    assert result.total_params == 2 * 12
    assert sum(result.by_operator.values()) == result.total_madds
    assert model.training
    assert all(p.device.type == "cpu" for p in model.parameters())
    text = result.table(depth=1)
    assert "head" in text
    assert "head.0" not in text
    assert "head.0" in result.table(depth=2)


class NotOnMeta(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float(x.sum())


def test_falls_back_to_the_cpu() -> None:
    result = count(NotOnMeta(3, 2, 1), (H, W))
    assert (result.device, result.total_madds) == ("cpu", H * W * 6)


def test_unknown_products_are_reported() -> None:
    result = count(Pooled(nn.LSTM(MHA_WIDTH, 4, batch_first=True)), (32, 40), device="cpu")
    assert any("rnn" in name or "lstm" in name for name in result.uncounted)


@pytest.mark.parametrize(("shape", "batch"), [((31, 64), 1), ((64, 16), 1), ((64, 64), 0)])
def test_bad_sizes_are_refused(shape: tuple[int, int], batch: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        count(nn.Conv2d(3, 3, 1), shape, batch)


def test_a_model_that_does_not_run_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^Conv2d does not run on 1x3x32x33 \(cpu\): .*channels"):
        count(nn.Conv2d(4, 3, 1), (32, 33))


def test_config_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py.*does not exist"):
        model_from_config(tmp_path / "nowhere.py")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(ValueError, match="has no `model`"):
        model_from_config(empty)
    broken = tmp_path / "broken.py"
    broken.write_text("model = (\n")
    with pytest.raises(ValueError, match="cannot be read"):
        model_from_config(broken)
    unknown = tmp_path / "unknown.py"
    unknown.write_text("model = dict(type='NoSuchModel')\n")
    with pytest.raises(ValueError, match="cannot be built"):
        model_from_config(unknown)


def run_tool(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *args])
    runpy.run_path(str(TOOL), run_name="__main__")


def test_tool_refuses_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "no.py")
    with pytest.raises(SystemExit, match=r"^get_flops: config '.*no\.py' does not exist"):
        run_tool(monkeypatch, missing)
    with pytest.raises(SystemExit, match=r"^get_flops: shape 16x64 .* at least 32"):
        run_tool(monkeypatch, missing, "--shape", "16", "64")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arch", "fvcore"),
    [
        ("508m", 510.6),
        ("96m", 96.3),
        ("26m", 26.0),
    ],
)
def test_classifiers_against_fvcore(arch: str, fvcore: float) -> None:
    """fvcore's count of the official code at 224 adds 2 per BatchNorm input and 5 per LayerNorm's.

    With those added ours agrees to 0.1 M (fvcore also counts the pooling).
    """
    from mmdet_mobileformer.backbone import MobileFormerClassifier

    model = MobileFormerClassifier(arch).to("meta").eval()
    products = count(model, (224, 224)).total_madds
    norms = 0

    def add(weight: int) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
            nonlocal norms
            norms += weight * inputs[0].numel()

        return hook

    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.register_forward_hook(add(2))
        elif isinstance(module, nn.LayerNorm):
            module.register_forward_hook(add(5))
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    assert norms > 0
    assert (products + norms) / 1e6 == pytest.approx(fvcore, abs=0.15)


def head_madds(
    shape: tuple[int, int],
    channels: tuple[int, ...] = (240, 176, 72),
    blocks: tuple[int, ...] = (5, 2, 2),
    width: int = 256,
    queries: int = 100,
    query_ffn: int = 1024,
    encoder_ffn: int = 2048,
    expansion: int = 4,
    classes: int = 80,
) -> dict[str, int]:
    """Multiply-adds of E2EMFHead from its layers' shapes alone, scales 1/32, 1/16, 1/8.

    N positions, Q queries, D channels. Every matrix and attention product is spelled out here, so
    this does not share a line with the counter or with the head.
    """
    d, q = width, queries

    def cells(stride: int) -> int:
        return math.ceil(shape[0] / stride) * math.ceil(shape[1] / stride)

    def mobile_to_former(n: int) -> int:
        return 3 * q * d * d + 2 * q * n * d  # query, gate, output; scores and sums over N

    former = 2 * q * d * d + 2 * q * q * d + 2 * q * d * query_ffn

    def former_to_mobile(n: int) -> int:
        return 2 * q * d * d + 2 * n * q * d  # keys and values of the queries; no output matrix

    parts = {}
    for i, (stride, c, count_) in enumerate(zip((32, 16, 8), channels, blocks)):
        n = cells(stride)
        encoder_layer = 4 * n * d * d + 2 * n * n * d + 2 * n * d * encoder_ffn
        lite_bottleneck = 9 * n * expansion * d + n * expansion * d * d  # depthwise, pointwise
        mobile = encoder_layer if i == 0 else lite_bottleneck
        position = 2 * q * d * d  # g, the two-layer MLP
        block = mobile_to_former(n) + former + mobile + former_to_mobile(n) + position
        merge = 0 if i == 0 else 9 * n * d + n * d * d  # depthwise 3x3 and pointwise after the sum
        parts[f"1/{stride}"] = n * c * d + merge + count_ * block
    parts["closing"] = mobile_to_former(cells(8))
    predictions = sum(blocks) + 1  # after every block, and after the closing layer
    parts["prediction"] = predictions * q * (d * (classes + 1) + 2 * d * d + 4 * d)
    return parts


DETECTOR = dict(
    type="E2EMF",
    backbone=dict(
        type="MobileFormer", arch="508m", dynamic_relu="spatial-aware", out_indices=(1, 2, 3)
    ),
    bbox_head=dict(type="E2EMFHead", num_classes=80, arch="508m"),
    test_cfg=dict(max_per_img=100),
)


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    pytest.importorskip("mmdet")
    from mmdet.registry import MODELS

    import mmdet_mobileformer  # noqa: F401

    return MODELS.build(DETECTOR)


@pytest.mark.parametrize("shape", [(800, 1333), (97, 131)])
def test_head_equals_the_analytic_formula(detector: nn.Module, shape: tuple[int, int]) -> None:
    result = count(detector, shape)
    assert result.madds["bbox_head"] == sum(head_madds(shape).values())
    assert result.madds["backbone"] + result.madds["bbox_head"] == result.total_madds
    assert result.uncounted == []


def test_detector_counts_the_same_on_the_cpu(detector: nn.Module) -> None:
    on_meta, on_cpu = (count(detector, (64, 97), batch=2, device=d) for d in DEVICES)
    assert on_meta.madds == on_cpu.madds
    assert on_meta.params == on_cpu.params


def test_size_of_the_papers_detector(detector: nn.Module) -> None:
    result = count(detector, (800, 1333))
    assert 26.3e6 <= result.total_params <= 27.0e6
    assert 39e9 <= result.total_madds <= 42e9


def test_tool_prints_what_count_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.py"
    config.write_text("model = dict(type='MobileFormer', arch='52m')\n")
    options = ["--shape", "64", "96", "--depth", "1", "--cfg-options", "model.arch=26m"]
    run_tool(monkeypatch, str(config), *options)
    from mmdet_mobileformer.backbone import MobileFormer

    result = count(MobileFormer(arch="26m"), (64, 96))
    out = capsys.readouterr().out
    assert f"params  {result.total_params / 1e6:.3f} M" in out
    assert f"MAdds   {result.total_madds / 1e9:.3f} G" in out
    assert "64 x 96" in out
    assert "NOT counted" not in out
