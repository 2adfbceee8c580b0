"""INT8 files: what stays in float, what they still find, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet.models")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("sympy")
sys.path.insert(0, str(Path(__file__).parent))

from mmdet_mobileformer.deploy.parity import drawn_images  # noqa: E402
from mmdet_mobileformer.deploy.quantize import Measured, quantize, report  # noqa: E402
from mmdet_mobileformer.runtime import Detector  # noqa: E402


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(4):
        picture = drawn_images(1, 60, 80 - 9 * index, seed=index)[0]
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


def annotate(file: Path, detector: Detector, folder: Path) -> None:
    """The detector's own best boxes as the truth."""
    images, annotations = [], []
    for number, picture in enumerate(sorted(folder.iterdir()), 1):
        images.append({"id": number, "file_name": picture.name})
        found = detector.predict(picture, threshold=0)
        for box, label in list(zip(found.boxes, found.labels))[:3]:
            x1, y1, x2, y2 = (float(side) for side in box)
            area = (x2 - x1) * (y2 - y1)
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, "area": area},
                    **{"category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]},
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(detector.info.classes, 1)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(data))


@pytest.mark.slow
def test_int8(exported: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    model, out = exported["model"], tmp_path / "int8.onnx"
    annotate(tmp_path / "ann.json", Detector(model), pictures)
    lines: list[str] = []
    before, after = quantize(
        model, pictures, out, annotations=tmp_path / "ann.json", count=3, say=lines.append
    )
    assert before.size == model.stat().st_size and after.size == out.stat().st_size
    assert after.size < 0.5 * before.size
    # The float file finds its own boxes; INT8 loses some of that, but not most.
    assert before.ap is not None and after.ap is not None
    assert before.ap > 0.9 and before.ap >= after.ap > 0.5 * before.ap
    text = "\n".join(lines)
    assert "ranges from 3 pictures" in text and f"{after.ap:7.4f}" in text
    graph = onnx.load(str(out)).graph
    types = {value.name: value.data_type for value in graph.initializer}
    made_float = {
        output
        for node in graph.node
        if node.op_type == "DequantizeLinear" and types.get(node.input[0]) == onnx.TensorProto.INT8
        for output in node.output
    }
    kinds: dict[str, set[str]] = {"INT8": set(), "float": set()}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight = node.input[1]
            if weight in made_float:
                kinds["INT8"].add(node.name)
            elif types.get(weight) == onnx.TensorProto.FLOAT:
                kinds["float"].add(node.name)
    assert kinds["float"] and all("fc_" in n or "reg_ffn" in n for n in kinds["float"]), kinds
    assert len(kinds["INT8"]) > 50
    # With more than seven bits, CPUs without VNNI overflow and find something else.
    values = [onnx.numpy_helper.to_array(v) for v in graph.initializer if v.data_type == 3 and v.dims]
    largest = max(int(np.abs(value.astype(int)).max()) for value in values)
    assert 60 <= largest <= 64
    assert Detector(out).info == Detector(model).info


def test_what_is_refused(exported: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    model = exported["model"]
    (tmp_path / "ann.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "absent.png"}], "categories": []})
    )
    (tmp_path / "there.onnx").write_bytes(b"")
    for arguments, options, kind, sentence in (
        ((model, pictures, "a.pth"), {}, ValueError, "from .onnx to .onnx"),
        ((model, pictures, "there.onnx"), {}, FileExistsError, "exists already"),
        ((model, tmp_path / "absent", "a.onnx"), {}, FileNotFoundError, "absent does not exist"),
        ((model, pictures, "a.onnx"), {"method": "best"}, ValueError, "method 'best' is unknown"),
        ((model, pictures, "a.onnx"), {"keep_float": ["("]}, ValueError, "no regular expression"),
        ((model, pictures, "a.onnx"), {"keep_float": [""]}, ValueError, "nothing is left"),
        (
            (model, pictures, "a.onnx"),
            {"annotations": tmp_path / "ann.json"},
            FileNotFoundError,
            "names absent.png, which is not below",
        ),
    ):
        with pytest.raises(kind, match=sentence):
            quantize(arguments[0], arguments[1], tmp_path / arguments[2], **options)  # type: ignore[arg-type]
    assert not (tmp_path / "a.onnx").exists() and (tmp_path / "there.onnx").read_bytes() == b""


def test_report_says_what_was_lost() -> None:
    good = report(Measured(1000, 10.0, 0.30), Measured(300, 8.0, 0.295))
    assert "+" not in good[1] and "-0.0050" in good[1] and "0.30x" in good[2] and len(good) == 4
    bad = report(Measured(1000, 10.0, 0.30), Measured(300, 12.0, 0.20))
    assert any("not faster on this CPU" in line for line in bad)
    assert any("falls by more than 0.01" in line for line in bad)
    assert len(report(Measured(1000, 10.0, None), Measured(300, 8.0, None))) == 3
    assert np.isfinite(float(good[2].split()[1]))
