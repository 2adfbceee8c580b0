"""analysis/overfit.py on two drawn images, for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet.models")
from mmdet.datasets import CocoDataset  # noqa: E402

from mmdet_mobileformer.analysis.overfit import _learning_rate, overfit  # noqa: E402


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three images in COCO's layout; the third is not trained on."""
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    images, annotations = [], []
    for index in (1, 2, 3):
        picture = np.full((64, 64, 3), 60 * index, np.uint8)
        picture[10:50, 12:40] = 255 - 60 * index
        cv2.imwrite(str(tmp_path / "train2017" / f"{index}.png"), picture)
        images.append(dict(id=index, file_name=f"{index}.png", width=64, height=64))
        annotations.append(
            dict(id=index, image_id=index, category_id=1, bbox=[12, 10, 28, 40], area=1120, iscrowd=0)
        )
    classes = CocoDataset.METAINFO["classes"]
    categories = [dict(id=index, name=name) for index, name in enumerate(classes, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content))
    return tmp_path


def test_it_trains_and_scores_the_given_images_alone(coco: Path) -> None:
    lines: list[str] = []
    scores = overfit(
        coco, minutes=0.1, arch="26m", image_ids=(1, 2), size=64, batch_size=2, report=lines.append
    )
    assert scores["iterations"] >= 1
    assert 0 <= scores["coco/bbox_mAP"] <= 1
    assert "AP50" in lines[-1]


def test_missing_images_and_folders_are_named(coco: Path) -> None:
    with pytest.raises(ValueError, match="image id 7 is not in"):
        overfit(coco, image_ids=(7,))
    with pytest.raises(FileNotFoundError, match="instances_train2017.json does not exist"):
        overfit(coco / "nowhere")


def test_the_schedule_warms_up_stays_and_ends_at_zero() -> None:
    assert _learning_rate(0.0, 1.0) == pytest.approx(0.01)
    assert _learning_rate(0.2, 1.0) == 1.0
    assert _learning_rate(1.0, 1.0) == pytest.approx(0.0)
