"""The first NaN or infinity stops the run, says where it is from, and can be run again."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet.models")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from tiny_run import CONFIG, make_run

import mmdet_mobileformer  # noqa: F401
from mmdet_mobileformer.train.assign import use_finite_assigner
from mmdet_mobileformer.train.examine import examine, is_finite
from mmdet_mobileformer.train.finite import NonFiniteError, StopAtNonFiniteHook
from mmdet_mobileformer.train.guards import add_guards
from mmdet_mobileformer.train.replay import pack, replay, save_step, unpack
from mmdet_mobileformer.train.sampling import generator_states
from mmdet_mobileformer.train.smoke import random_batch

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_finite(bad: float, dtype: torch.dtype) -> None:
    tensors = [
        torch.randn(3, 4, dtype=dtype),
        torch.zeros(0, dtype=dtype),
        torch.ones((), dtype=dtype),
    ]
    assert is_finite(tensors) and is_finite([])
    assert is_finite([*tensors, torch.full((9,), 1e38, dtype=dtype)]), (
        "the sum of squares overflows"
    )
    sparse = torch.ones(3, dtype=dtype).to_sparse()
    assert is_finite([sparse])
    assert not is_finite([sparse, sparse * bad])
    tensors[0][1, 2] = bad
    assert not is_finite(tensors)


@pytest.fixture
def detector() -> Any:
    init_default_scope("mmdet")
    torch.manual_seed(0)
    cfg = Config.fromstring(CONFIG, ".py").model
    use_finite_assigner(cfg)
    return MODELS.build(cfg).train()


def batch() -> dict[str, Any]:
    return random_batch(size=64, classes=2)


class Spoil(nn.Module):
    """Stands for a layer that divides by zero in the forward or, with `late`, in the backward."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.late = late

    def forward(self, x: Tensor) -> Tensor:
        if self.late:
            return x + (x - x.detach()).abs().sqrt()  # sqrt has no gradient at 0
        return x * NAN


def spoil_weight(model: Any) -> None:
    next(model.bbox_head.fc_reg.parameters()).data[0] = INF


def spoil_layer(model: Any) -> None:
    model.bbox_head.scales[0].blocks[0].former.fc2 = nn.Sequential(
        model.bbox_head.scales[0].blocks[0].former.fc2, Spoil()
    )


def spoil_loss(model: Any) -> None:
    model.bbox_head.loss_bbox.loss_weight = INF


def spoil_between(model: Any) -> None:
    forward = model.backbone.forward
    model.backbone.forward = lambda *args: tuple(x / 0 for x in forward(*args))


def spoil_gradient(model: Any) -> None:
    model.bbox_head.activate = Spoil(late=True)


def spoil_images(model: Any) -> None:
    model.data_preprocessor.std.zero_()


CAUSES: list[tuple[Callable[[Any], None], str]] = [
    (spoil_weight, r"the weight bbox_head\.fc_reg\.weight, before the step"),
    (spoil_layer, r"the output of bbox_head\.scales\.0\.blocks\.0\.former\.fc2\.1 \(Spoil\)"),
    (spoil_loss, r"the output of bbox_head\.loss_bbox \(L1Loss\)"),
    (spoil_between, r"the output of backbone \(MobileFormer\)"),
    (spoil_gradient, r"the gradient of what bbox_head\.reg_ffn\S* gives to bbox_head\.activate;"),
    (spoil_images, r"the images after the preprocessor"),
]


@pytest.mark.parametrize(("spoil", "expected"), CAUSES, ids=lambda v: getattr(v, "__name__", ""))
def test_the_first_thing_that_is_not_finite(spoil: Any, expected: str, detector: Any) -> None:
    import re

    assert examine(detector, batch()).where is None
    spoil(detector)
    finding = examine(detector, batch())
    assert finding.where is not None and re.match(expected, finding.where)
    assert bool(finding.bad_losses()) is (spoil is not spoil_gradient)
    # Nothing is left hanging on the model.
    assert not any(m._forward_hooks for m in detector.modules())


@HOOKS.register_module()
class SpoilAt(StopAtNonFiniteHook.__base__):
    """Breaks a training at an iteration by one of the causes above."""

    def __init__(self, iteration: int, cause: str) -> None:
        self.iteration, self.cause = iteration, cause

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.iteration:
            runner.before = {k: v.clone() for k, v in runner.model.named_parameters()}
            globals()[self.cause](runner.model)


def run_config(folder: Path, cause: str, iteration: int = 1, **changes: Any) -> Config:
    file, data = make_run(folder)
    cfg = Config.fromfile(str(file))
    cfg.merge_from_dict(changes)
    for split in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset):
        split.data_root = str(data)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.work_dir = str(folder / "work")
    cfg.experiment_name = f"finite_{folder.name}"
    cfg.custom_hooks = [dict(type="SpoilAt", iteration=iteration, cause=cause)]
    add_guards(cfg)
    return cfg


@pytest.mark.parametrize("cause", ["spoil_loss", "spoil_gradient", "spoil_layer"])
def test_the_run_stops_before_the_weights_change(cause: str, tmp_path: Path) -> None:
    cfg = run_config(tmp_path, cause)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(NonFiniteError) as error:
        runner.train()
    text = str(error.value)
    assert "\n" not in text and "stopped at iteration 2, in epoch 1" in text
    assert text.count("data/train/3.png") == 1 and text.count("data/train/4.png") == 1
    losses = dict(spoil_loss="loss_bbox is ", spoil_layer="loss_cls is nan")
    assert losses.get(cause, "the losses are finite; first: the gradient of what bbox") in text
    for name, value in runner.model.named_parameters():
        if name in runner.before:
            assert torch.equal(value, runner.before[name]), name
    assert not list((tmp_path / "work").glob("epoch_*.pth"))
    file = tmp_path / "work" / "nonfinite_iter_2.pth"
    assert f"tools/replay_batch.py {tmp_path / 'work' / 'tiny.py'} {file}" in text
    saved = torch.load(file, weights_only=True)
    assert [Path(image).name for image in saved["info"]["images"]] == ["3.png", "4.png"]


def test_a_finite_gradient_of_a_loss_that_is_not(tmp_path: Path) -> None:
    """From areas that overflow float32 mmdet's GIoU is NaN, and its gradient zero."""
    runner = Runner.from_cfg(run_config(tmp_path, "spoil_giou"))
    with pytest.raises(NonFiniteError, match="loss_iou is nan.*bbox_head.loss_iou .GIoULoss"):
        runner.train()
    assert all(torch.equal(v, runner.before[k]) for k, v in runner.model.named_parameters())


def spoil_giou(model: Any) -> None:
    forward = model.bbox_head.loss_iou.forward
    model.bbox_head.loss_iou.forward = lambda p, t, *a, **k: (
        forward(p, t + 1e25, *a, **k) * (0 * float(p.detach().sum()) + 1)
    )


def test_while_gradients_are_accumulated(tmp_path: Path) -> None:
    """The batch at fault is the one of this iteration, not the one at which the optimizer steps."""
    cfg = run_config(tmp_path, "spoil_loss", 0, **{"optim_wrapper.accumulative_counts": 2})
    with pytest.raises(NonFiniteError, match=r"iteration 1, .*train/1.png"):
        Runner.from_cfg(cfg).train()


def test_mixed_precision(tmp_path: Path) -> None:
    cfg = run_config(tmp_path, "spoil_layer", **{"optim_wrapper.type": "CpuAmpOptimWrapper"})
    with pytest.raises(NonFiniteError, match="loss_cls is nan"):
        Runner.from_cfg(cfg).train()
    file = tmp_path / "work" / "nonfinite_iter_2.pth"
    assert torch.load(file, weights_only=True)["info"]["autocast"] == "bfloat16"


def test_a_gradient_scaler_is_left_alone(detector: Any) -> None:
    """It meets infinite gradients, halves the scale and leaves the step out by itself."""

    class Scaled(AmpOptimWrapper):
        def __init__(self, optimizer: Any) -> None:
            self.optimizer, self.loss_scaler = optimizer, object()

    class FakeRunner:
        model = detector
        optim_wrapper = Scaled(torch.optim.SGD(detector.parameters(), lr=0.1))

    hook = StopAtNonFiniteHook()
    hook.before_train(FakeRunner())
    assert not FakeRunner.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_a_disk_that_is_full_does_not_hide_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr("mmdet_mobileformer.train.finite.save_step", full)
    with pytest.raises(NonFiniteError, match=r"loss_bbox is .*could not be saved \(no room\)"):
        Runner.from_cfg(run_config(tmp_path, "spoil_loss")).train()


def samples() -> list[Any]:
    sample = DetDataSample(metainfo=dict(img_path="a.jpg", scale_factor=(0.5, 0.5), flip=False))
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.rand(2, 4)),
        labels=torch.tensor([1, 0]),
        masks=BitmapMasks(np.ones((2, 5, 6), np.uint8), 5, 6),
    )
    sample.set_metainfo(dict(homography_matrix=np.eye(3), img_id=np.int64(3), odd=Path("x")))
    return [sample]


def test_a_batch_comes_back(tmp_path: Path) -> None:
    original = dict(inputs=[torch.rand(3, 5, 6)], data_samples=samples(), extra=(1, None, {2: "b"}))
    torch.save(pack(original), tmp_path / "a.pth")
    found = unpack(torch.load(tmp_path / "a.pth", weights_only=True))
    assert torch.equal(found["inputs"][0], original["inputs"][0])
    assert found["extra"] == (1, None, {2: "b"})
    (theirs,), (ours,) = original["data_samples"], found["data_samples"]
    assert type(ours) is DetDataSample and ours.img_path == "a.jpg" and ours.img_id == 3
    assert ours.scale_factor == (0.5, 0.5) and np.array_equal(ours.homography_matrix, np.eye(3))
    assert ours.odd == "x"
    assert torch.equal(ours.gt_instances.bboxes.tensor, theirs.gt_instances.bboxes.tensor)
    assert torch.equal(ours.gt_instances.labels, theirs.gt_instances.labels)
    assert np.array_equal(ours.gt_instances.masks.masks, theirs.gt_instances.masks.masks)


def test_a_replay_gives_the_very_losses(detector: Any, tmp_path: Path) -> None:
    """Dropout included: the generators are those of the step."""
    cfg = Config.fromstring(CONFIG, ".py")
    generators = generator_states()
    first = examine(detector, batch())
    info = dict(iteration=1, epoch=1, images=[], where="", autocast=None)
    save_step(tmp_path / "a.pth", detector, batch(), generators, **info)
    found, again = replay(cfg, tmp_path / "a.pth")
    assert found == info and again == first and first.where is None
    # Its own state of the generators, and a loss that depends on it.
    detector.train()
    assert examine(detector, batch()).losses != first.losses


def tool(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["replay_batch.py", *map(str, args)])
    try:
        runpy.run_path(str(ROOT / "tools" / "replay_batch.py"), run_name="__main__")
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"model.bbox_head.loss_bbox": dict(type="L1Loss", loss_weight=1e39)}
    with pytest.raises(NonFiniteError):
        Runner.from_cfg(run_config(tmp_path, "spoil_loss", 9, **options)).train()
    work = tmp_path / "work"
    file = work / "nonfinite_iter_1.pth"
    capsys.readouterr()
    assert tool(monkeypatch, work / "tiny.py", file) == 1
    text = capsys.readouterr().out
    assert "saved at iteration 1 of epoch 1: loss_bbox is" in text and "train/1.png" in text
    assert "now: first not finite is the output of bbox_head.loss_bbox (L1Loss)" in text
    cure = "model.bbox_head.loss_bbox.loss_weight=5.0"
    assert tool(monkeypatch, work / "tiny.py", file, "--cfg-options", cure) == 0
    assert "now: all losses and gradients are finite" in capsys.readouterr().out
    other = "model.bbox_head.num_queries=11"
    assert tool(monkeypatch, work / "tiny.py", file, "--cfg-options", other) == 1
    assert "does not fit the config's model" in capsys.readouterr().err
    torch.save({"state_dict": {}}, work / "no.pth")
    assert tool(monkeypatch, work / "tiny.py", work / "no.pth") == 1
    assert "holds no saved step" in capsys.readouterr().err
