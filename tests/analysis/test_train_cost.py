"""What a training run needs, counted without running it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmdet_mobileformer import MobileFormer
from mmdet_mobileformer.analysis.train_cost import TrainCost, kept_bytes, train_cost
from mmdet_mobileformer.kernels import kernels_available
from mmdet_mobileformer.layers import dynamic_relu as relu
from mmdet_mobileformer.layers import fused

ROOT = Path(__file__).resolve().parents[2]


def really_kept(model: nn.Module, images: Tensor) -> int:
    """The same on real tensors."""
    kept: dict[int, Tensor] = {}
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(images)
    del result
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)


def test_by_hand() -> None:
    # ReLU keeps its output, the second convolution the same one, the first the images.
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    pixels = 2 * 40 * 48
    assert kept_bytes(model, (40, 48), 2) == 4 * pixels * (3 + 8)


@pytest.mark.parametrize("dynamic_relu", ["first-token", "spatial-aware"])
@pytest.mark.parametrize("loaded", [True, False])
def test_fake_tensors_give_what_real_ones_do(
    dynamic_relu: str, loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And count what a GPU keeps, whether or not the kernels of CPUs are loaded."""
    loaded = loaded and kernels_available()
    for module in (fused, relu):
        monkeypatch.setattr(module, "kernels_loaded", lambda: loaded)
    model = MobileFormer("26m", dynamic_relu).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    counted = kept_bytes(model, (64, 96), 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for module in (fused, relu):
        monkeypatch.setattr(module, "kernels_loaded", lambda: False)
    assert counted == really_kept(model, torch.zeros(2, 3, 64, 96))


def test_the_run() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    cost = train_cost(model, (64, 64), batch=2, gpus=4, images=33, epochs=10)
    assert (cost.iterations, cost.epochs) == (5, 10)
    assert cost.params == 8 * (27 + 1) and cost.state == 16 * cost.params
    assert cost.madds == 3 * 2 * 64 * 64 * 27 * 8
    assert TrainCost(1, 1, 1, iterations=7393, epochs=300).hours(0.5) == pytest.approx(308.04, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(batch=0), "batch is 0, but must be at least 1"),
        (dict(images=0), "images is 0"),
        (dict(shape=(16, 64)), "at least 32 pixels"),
        (dict(model=nn.Sequential(nn.Linear(5, 5))), "Sequential does not run on 2x3x64x64"),
    ],
)
def test_bad_input_is_one_sentence(change: dict, message: str) -> None:
    given = dict(model=nn.Conv2d(3, 1, 1), shape=(64, 64), batch=2, gpus=1, images=8, epochs=1)
    with pytest.raises(ValueError, match=message) as error:
        train_cost(**{**given, **change})
    assert "\n" not in str(error.value)


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mmdet.models")
    config = str(ROOT / "configs" / "e2emf_26m_coco.py")
    flags = ["--shape", "96", "128", "--seconds", "0.36", "--measure", "64"]
    monkeypatch.setattr(sys, "argv", ["train_cost.py", config, *flags])
    runpy.run_path(str(ROOT / "tools" / "analysis_tools" / "train_cost.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "per GPU, 2 x 3 x 96 x 128, float32" in printed
    assert "hours at 0.360 s per iteration" in printed and "221.8" in printed
    seconds = float(printed.split("on this CPU: ")[1].split()[0])
    assert 0 < seconds < 60
    monkeypatch.setattr(sys, "argv", ["train_cost.py", "no.py"])
    with pytest.raises(SystemExit, match="config 'no.py' does not exist"):
        runpy.run_path(str(ROOT / "tools" / "analysis_tools" / "train_cost.py"), run_name="__main__")
