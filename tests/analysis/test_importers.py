"""Predictions go into supervision and SAHI by their own standard ways."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from tiny_run import make_run  # noqa: E402

from mmdet_mobileformer.analysis.inference import make_inferencer  # noqa: E402
from mmdet_mobileformer.train.build import read_config  # noqa: E402


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Config and checkpoint; that names its classes, as training writes it."""
    folder = tmp_path_factory.mktemp("tiny")
    config, _ = make_run(folder)
    # As every config has it that inherits MMDetection's or our default_runtime.py.
    config.write_text(config.read_text() + "visualizer = dict(type='DetLocalVisualizer')\n")
    torch.manual_seed(0)
    register_all_modules(init_default_scope=True)
    model = MODELS.build(read_config(str(config)).model)
    meta = dict(dataset_meta=dict(classes=("box", "disc"), palette=[(220, 20, 60), (119, 11, 32)]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / "weights.pth")
    return str(config), str(folder / "weights.pth")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "some.png"
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8))
    return file


@pytest.fixture(scope="module")
def sample(detector: tuple[str, str], picture: Path) -> Any:
    (found,) = make_inferencer(*detector)(str(picture), return_datasamples=True)["predictions"]
    return found


def test_supervision(sample: Any) -> None:
    supervision = pytest.importorskip("supervision")
    detections = supervision.Detections.from_mmdetection(sample)
    found = sample.pred_instances
    assert len(detections) == 10
    np.testing.assert_array_equal(detections.xyxy, found.bboxes.numpy())
    np.testing.assert_array_equal(detections.confidence, found.scores.numpy())
    np.testing.assert_array_equal(detections.class_id, found.labels.numpy())


def test_sahi(detector: tuple[str, str], sample: Any, picture: Path) -> None:
    """The whole picture as one slice gives our predictions; sliced, boxes reach all of it."""
    pytest.importorskip("sahi")
    from sahi import AutoDetectionModel
    from sahi.predict import get_prediction, get_sliced_prediction

    config, checkpoint = detector
    model = AutoDetectionModel.from_pretrained(
        model_type="mmdet", model_path=checkpoint, config_path=config, confidence_threshold=0.0, device="cpu"
    )
    whole = get_prediction(str(picture), model).object_prediction_list
    found = sample.pred_instances
    assert len(whole) == 10
    assert [p.score.value for p in whole] == pytest.approx(found.scores.tolist(), abs=1e-6)
    assert [p.category.name for p in whole] == [("box", "disc")[label] for label in found.labels]
    # SAHI rounds boxes to whole pixels.
    boxes = np.array([p.bbox.to_xyxy() for p in whole])
    np.testing.assert_allclose(boxes, found.bboxes.numpy(), atol=1.0)
    sliced = get_sliced_prediction(
        str(picture), model, slice_height=50, slice_width=50, perform_standard_pred=False, verbose=0
    )
    corners = np.array([p.bbox.to_xyxy() for p in sliced.object_prediction_list])
    assert corners[:, 2].max() > 60 and corners.max() <= 100
