"""What is timed: networks, their post-processing, engines, parts, training steps."""

from __future__ import annotations

import gc
import sys
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet.models")
sys.path.insert(0, str(Path(__file__).parents[2] / "train"))
from tiny_run import CONFIG  # noqa: E402

from mmdet_mobileformer.analysis.benchmark import engines, models, parts, worker  # noqa: E402
from mmdet_mobileformer.analysis.benchmark.worker import Case  # noqa: E402

DETR = "mmdet::detr/detr_r50_8xb2-150e_coco.py"
SMALL_DETR = {
    "model.backbone.depth": 18,
    "model.neck.in_channels": [512],
    "model.encoder.num_layers": 1,
    "model.decoder.num_layers": 2,
}
SHAPE = (64, 96)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("config") / "tiny.py"
    file.write_text(CONFIG)
    return str(file)


def network(name: str, options: dict[str, Any] | None = None) -> models.Network:
    model = models.build(models.load(name, options), name).eval()
    made = models.Network(models.part_of(model, name), SHAPE, 1)
    made.learn_structure(torch.zeros(1, 3, *SHAPE))
    return made


@pytest.mark.parametrize(("name", "options"), [("tiny", None), (DETR, SMALL_DETR)])
def test_boxes_are_the_detector_s(tiny: str, name: str, options: dict[str, Any] | None) -> None:
    made = network(tiny if name == "tiny" else name, options)
    assert made.splits
    images = torch.randn(1, 3, *SHAPE)
    with torch.no_grad():
        outputs = made(images)
        (found,) = made.boxes(outputs)
        (expected,) = made.model(images, made.samples, mode="predict")
    assert torch.allclose(found.scores, expected.pred_instances.scores, atol=1e-5)
    # The same boxes; where scores are equal to the last bit the order may differ.
    assert torch.allclose(found.bboxes.sum(0), expected.pred_instances.bboxes.sum(0), rtol=1e-3)
    # Of a DETR the last layer's queries alone are predicted, as in its own predict.
    assert all(isinstance(output, torch.Tensor) for output in outputs)
    assert name == "tiny" or len(outputs[0]) == 1


def test_the_backbone_alone(tiny: str) -> None:
    made = network(tiny + models.BACKBONE)
    outputs = made(torch.zeros(1, 3, *SHAPE))
    assert [tuple(x.shape[-2:]) for x in outputs] == [(8, 12), (4, 6), (2, 3)]
    assert made.boxes(outputs) is outputs
    with pytest.raises(ValueError, match="has no backbone"):
        models.part_of(nn.Linear(1, 1), "a#backbone")


def test_nothing_is_downloaded() -> None:
    cfg = models.load(DETR)
    assert cfg.model.backbone.init_cfg is None
    with pytest.raises(FileNotFoundError, match="does not exist"):
        models.load("nowhere.py#backbone")


def test_folding_keeps_the_outputs(tiny: str) -> None:
    made = network(tiny)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    images = torch.randn(1, 3, *SHAPE)
    with torch.no_grad():
        expected = made(images)
        made.model, done = models.prepare(made.model, "fold")
        found = made(images)
        assert models.prepare(made.model, "none")[1] == "as built"
    assert done == "Conv-BN folded"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, expected))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_give_the_same(engine: str, tmp_path: Path, tiny: str) -> None:
    for package in engines.ENGINES[engine]:
        pytest.importorskip(package)
    made = network(tiny)
    images = torch.randn(1, 3, *SHAPE)
    run = engines.start(engine, made, images, 1, tmp_path)
    with torch.no_grad():
        expected = made(images)
    found = run(images)
    assert len(found) == len(expected)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(found, expected))


def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.raises(ValueError, match="cannot be exported: ") as error:
        engines.export(Counting(), torch.eye(3)[None], tmp_path / "x.onnx")
    assert "\n" not in str(error.value)


def test_parts_add_up_and_leave_no_trace(tiny: str) -> None:
    made = network(tiny)
    before = dict(vars(made.model.bbox_head))
    with torch.inference_mode():
        found = parts.breakdown(made.model, lambda: made(torch.zeros(1, 3, *SHAPE)), 1)
    kinds = ("stem", "Mobile", "Former", "Mobile→Former", "Mobile←Former", "dynamic ReLU")
    names = {f"backbone: {kind}" for kind in kinds} | {"head: prediction", "rest"}
    for stride in (32, 16, 8):
        names |= {f"head 1/{stride}: {kind}" for kind in ("entry", "feature side", "Former")}
    assert names <= set(found) and all(ms >= 0 for ms in found.values())
    assert vars(made.model.bbox_head).keys() == before.keys()
    assert not any(module._forward_hooks for module in made.modules())


def test_time_belongs_to_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 7.0, 8.0])
    monkeypatch.setattr(parts.time, "perf_counter", lambda: next(now))
    watch = parts.Stopwatch("outer")
    watch.enter("a")
    watch.enter("b")
    watch.leave()
    watch.leave()
    assert dict(watch.seconds) == {"outer": 1.0, "a": 2.0 + 1.0, "b": 4.0}


def test_a_prediction_s_steps(tiny: str) -> None:
    with torch.inference_mode():
        subject = worker.Prediction(
            Case(tiny, shape=SHAPE, threads=1, preparation="fold", preprocessing=True)
        )
        times = subject()
    assert list(times) == ["preprocessing", "network", "postprocessing"]
    assert min(times.values()) > 0
    assert subject.info["madds"] > 1e6 and subject.info["prepared"] == "Conv-BN folded"


def test_a_training_step_trains(tiny: str) -> None:
    subject = worker.Training(Case(tiny, shape=SHAPE, batch=2, threads=1, mode="train"))
    before = [parameter.clone() for parameter in subject.model.parameters()]
    times = subject()
    assert list(times) == ["forward", "backward", "optimizer"]
    changed = [not torch.equal(a, b) for a, b in zip(before, subject.model.parameters())]
    assert sum(changed) > 0.9 * len(changed)


def test_peak_memory_is_seen() -> None:
    # A block in memory that earlier tests freed, but which the process still holds, would not be seen.
    gc.collect()
    worker._trim()
    worker.reset_peak()
    before = worker.peak()
    block = torch.ones(20_000_000)
    del block
    assert worker.peak() - before > 70e6


@pytest.mark.parametrize(("seconds", "calls"), [(0.0, 2), (1.5 * worker.SHORT, 1)])
def test_a_short_run_follows_an_untimed_one(
    monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int
) -> None:
    called: list[float] = []

    class Subject:
        info: dict[str, float] = {}

        def __init__(self, case: Case) -> None:
            pass

        def __call__(self) -> dict[str, float]:
            called.append(time.perf_counter())
            time.sleep(seconds)
            return dict(network=float(len(called)))

    monkeypatch.setitem(worker._SUBJECTS, "machine", Subject)
    ours, its = Pipe()
    ours.send("run")
    ours.send("stop")
    worker._work(Case("", threads=torch.get_num_threads(), mode="machine", warmup=1), its)
    assert ours.recv() == ("ready", {})
    word, value = ours.recv()
    assert word == "run" and value["times"] == dict(network=1.0 + calls) and len(called) == 1 + calls
