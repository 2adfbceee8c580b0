"""The graph's selection, colours and normalisation are the detector's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")
sys.path.insert(0, str(Path(__file__).parent))
from tiny_detector import SIGMOID, build  # noqa: E402
from tiny_run import CONFIG  # noqa: E402

from mmdet_mobileformer.deploy.graph import DetectorGraph, statistics  # noqa: E402
from mmdet_mobileformer.deploy.parity import drawn_images, match, torch_detections  # noqa: E402

BGR = "model['data_preprocessor']['bgr_to_rgb'] = False\n"
PLAIN = "model['data_preprocessor'] = dict(type='DetDataPreprocessor')\n"


@pytest.mark.parametrize("more", ["", SIGMOID, SIGMOID + BGR, PLAIN])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("fold", [True, False])
def test_the_graph_finds_what_the_detector_finds(
    more: str, normalize: bool, fold: bool, tmp_path: Path
) -> None:
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG + more)
    detector = build(config)
    detector.bbox_head.fc_reg.weight.data *= 2  # boxes further apart
    images = drawn_images(2, 45, 70)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if not normalize:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics(detector))
        inputs = (inputs - mean) / std
    with torch.no_grad():
        graph = DetectorGraph(detector, normalize, fold)
        boxes, scores, labels = (part.numpy() for part in graph(inputs))
    assert boxes.min() >= 0 and boxes.max() <= 1 and (np.diff(scores) <= 0).all()
    side = np.float32([70, 45, 70, 45])
    expected = torch_detections(detector, images)
    # Detections that differ from each other, or the comparison would prove nothing.
    assert expected[1].std() > 1e-3 and expected[0].std(axis=1).max() > 1
    score, box, missing = match(expected, (boxes * side, scores, labels), side)
    assert missing == 0 and score < 1e-5 and box < 1e-3


def test_fewer_than_all_queries(tmp_path: Path) -> None:
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG.replace("max_per_img=10", "max_per_img=3") + SIGMOID)
    boxes, scores, labels = DetectorGraph(build(config))(torch.rand(1, 3, 40, 40) * 255)
    assert boxes.shape == (1, 3, 4) and scores.shape == labels.shape == (1, 3)


def test_padding_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG + "model['data_preprocessor']['pad_size_divisor'] = 32\n")
    with pytest.raises(ValueError, match="pad_size_divisor is 32"):
        DetectorGraph(build(config))
