"""Exported files: what they find, say and refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
sys.path.insert(0, str(Path(__file__).parent))
from tiny_detector import SIGMOID, build, write  # noqa: E402

from mmdet_mobileformer import __version__  # noqa: E402
from mmdet_mobileformer.deploy import exact  # noqa: E402
from mmdet_mobileformer.deploy.export import export  # noqa: E402
from mmdet_mobileformer.deploy.parity import drawn_images  # noqa: E402
from mmdet_mobileformer.models import config_path  # noqa: E402
from mmdet_mobileformer.runtime import Detector  # noqa: E402


def silent(_: str) -> None:
    pass


def test_parity_is_printed(exported: dict[str, Any]) -> None:
    shapes = [row.shape for row in exported["rows"]]
    assert (1, 64, 64) in shapes and (2, 101, 135) in shapes and (1, 163, 227) in shapes
    assert all(row.missing == 0 and row.score < 1e-4 and row.box < 0.05 for row in exported["rows"])
    assert "2 x 101 x 135" in exported["text"] and "tiny.onnx: " in exported["text"]


def test_the_file_is_plain_onnx_and_describes_itself(exported: dict[str, Any]) -> None:
    model = onnx.load(str(exported["model"]))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert [value.name for value in model.graph.output] == ["boxes", "scores", "labels"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in shape] == ["batch", 3, "height", "width"]
    assert json.loads({p.key: p.value for p in model.metadata_props}["mobileformer"]) == {
        "version": __version__,
        "format": 1,
        "config": "tiny",
        "classes": ["cat", "dog"],
        "resize": {"keep_ratio": True, "scale": [64, 64]},
        "pad_divisor": 1,
        "input": {
            "channel_order": "RGB",
            "range": 255,
            "normalized_inside": True,
            "mean": pytest.approx([123.675, 116.28, 103.53]),
            "std": pytest.approx([58.395, 57.12, 57.375]),
        },
        "score_threshold": 0.3,
    }


def test_same_boxes_as_pytorch_on_the_same_file(exported: dict[str, Any], tmp_path: Path) -> None:
    from mmdet.apis import inference_detector, init_detector

    detector = init_detector(str(exported["config"]), str(exported["checkpoint"]), device="cpu")
    runtime = Detector(exported["model"])
    for index, (height, width) in enumerate(((90, 121), (240, 181), (50, 64))):
        file = tmp_path / f"{index}.jpg"
        cv2.imwrite(str(file), drawn_images(1, height, width, seed=index)[0])
        expected = inference_detector(detector, str(file)).pred_instances
        found = runtime.predict(file, threshold=0.0)
        assert found.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.bboxes.numpy(), atol=0.01)


def test_nothing_is_overwritten(exported: dict[str, Any]) -> None:
    before = exported["model"].read_bytes()
    with pytest.raises(FileExistsError, match="tiny.onnx exists already"):
        export(str(exported["config"]), str(exported["checkpoint"]), exported["model"])
    assert exported["model"].read_bytes() == before
    assert not list(exported["folder"].glob(".export-*"))


def test_bad_input(exported: dict[str, Any], tmp_path: Path) -> None:
    config, checkpoint = str(exported["config"]), str(exported["checkpoint"])
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    del state["bbox_head.fc_cls.weight"]
    torch.save({"state_dict": state}, tmp_path / "part.pth")
    evil = tmp_path / "evil.pth"
    torch.save({"state_dict": build, "meta": {}}, evil)
    retinanet = config_path("retinanet_mobileformer_26m_fpn_1x_coco")
    for arguments, options, kind, sentence in (
        ((config, checkpoint, "a.pth"), {}, ValueError, "must end in .onnx"),
        ((config, "absent.pth", "a.onnx"), {}, FileNotFoundError, "absent.pth does not exist"),
        (("absent.py", checkpoint, "a.onnx"), {}, FileNotFoundError, "absent.py does not exist"),
        ((config, str(tmp_path / "bad.pth"), "a.onnx"), {}, ValueError, "is not a PyTorch file"),
        ((config, str(evil), "a.onnx"), {}, ValueError, "neither a tensor nor plain data"),
        (
            (config, str(tmp_path / "part.pth"), "a.onnx"),
            {},
            ValueError,
            "1 weights are missing or of another shape .bbox_head.fc_cls.weight.",
        ),
        (
            (config, checkpoint, "a.onnx"),
            {"test_dataloader.dataset.pipeline": [{"type": "RandomFlip", "prob": 1.0}]},
            ValueError,
            "pipeline has RandomFlip",
        ),
        ((config, checkpoint, "a.onnx"), {"size": (16, 64)}, ValueError, "has 32 px at least"),
        ((retinanet, checkpoint, "a.onnx"), {}, ValueError, "does not fit"),
    ):
        size = options.pop("size", None)
        with pytest.raises(kind, match=sentence):
            export(
                *arguments[:2], tmp_path / arguments[2], size=size, options=options, say=silent
            )
    assert not (tmp_path / "a.onnx").exists()


def test_classes_must_fit(tmp_path: Path) -> None:
    config, checkpoint = write(tmp_path, meta={"dataset_meta": {"classes": ("cat",)}})
    with pytest.raises(ValueError, match="has 2 classes but 1 names are given"):
        export(str(config), str(checkpoint), tmp_path / "a.onnx", say=silent)


@pytest.mark.slow
def test_a_rule_that_differs_from_pytorch_leaves_no_file(
    exported: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pooling by equal windows of two is what a careless exporter makes of it."""

    def halves(size: Any, out_size: Any) -> torch.Tensor:
        row, cell = torch.arange(out_size).unsqueeze(1), torch.arange(size).unsqueeze(0)
        return (cell // 2 == row).to(torch.float32) / 2

    monkeypatch.setattr(exact, "pooling_matrix", halves)
    with pytest.raises(ValueError, match="does not find what PyTorch finds .* no file is written"):
        export(str(exported["config"]), str(exported["checkpoint"]), tmp_path / "a.onnx", say=silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_fixed_size_openvino_and_no_normalisation(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    config, checkpoint = write(tmp_path)
    rows = export(
        str(config), str(checkpoint), tmp_path / "fixed.onnx",
        openvino=True, size=(65, 98), normalize=False, say=silent,
    )  # fmt: skip
    assert [(row.engine, row.shape) for row in rows] == [
        ("onnxruntime", (1, 65, 98)), ("openvino", (1, 65, 98)),
    ]  # fmt: skip
    pictures = drawn_images(2, 70, 111)
    found = []
    for suffix in (".onnx", ".xml"):
        detector = Detector(tmp_path / f"fixed{suffix}")
        assert detector.engine.size == (65, 98) and detector.engine.batch == 1
        assert not detector.info.normalized_inside and not detector.info.keep_ratio
        found.append(list(detector.predict_many(list(pictures), threshold=0)))
    for one, other in zip(*found):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("deltas", ["logit", "box"])
def test_fixed_size_with_reference_boxes(tmp_path: Path, deltas: str) -> None:
    """Constants of a fixed size were of another precision than what they meet."""
    options = f"look='middle', deltas='{deltas}', size_aware=True, rivals=True, read_boxes=True"
    more = SIGMOID + f"model['bbox_head'].update({options})\n"
    config, checkpoint = write(tmp_path, more)
    rows = export(str(config), str(checkpoint), tmp_path / "a.onnx", size=(65, 98), say=silent)
    assert [(row.shape, row.missing) for row in rows] == [((1, 65, 98), 0)]
    assert rows[0].detections > 0 and rows[0].box < 0.01


@pytest.mark.slow
def test_the_demos_detector_leaves_its_training_behind(tmp_path: Path) -> None:
    checkpoint = tmp_path / "demo.pth"
    state = build(Path(config_path("e2emf_demo"))).state_dict()
    needed = {k: v for k, v in state.items() if not k.startswith(("aux_", "bbox_head.denoising"))}
    assert len(needed) < len(state)
    torch.save({"state_dict": needed}, checkpoint)
    export(config_path("e2emf_demo"), str(checkpoint), tmp_path / "demo.onnx", say=silent)
    model = onnx.load(str(tmp_path / "demo.onnx"))
    names = [node.name for node in model.graph.node]
    assert not any("aux" in name or "denoising" in name for name in names)
    assert Detector(tmp_path / "demo.onnx").info.classes[0] == "disc"
