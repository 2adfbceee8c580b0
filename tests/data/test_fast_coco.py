"""The faster evaluator has pycocotools' numbers, unrounded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.evaluation import CocoMetric  # noqa: E402
from mmdet.evaluation.metrics import coco_metric  # noqa: E402
from mmdet.registry import METRICS  # noqa: E402

from mmdet_mobileformer.data import fast_coco  # noqa: E402
from mmdet_mobileformer.data.fast_coco import FastCocoMetric  # noqa: E402


def random_set(folder: Path, images: int, classes: int, seed: int = 0) -> tuple[Path, list[Any]]:
    """A ground truth with crowds, and predictions: near objects, elsewhere, tied scores, none."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    samples = []
    for image in range(1, images + 1):
        count = int(rng.integers(0, 12))
        corner, size = rng.uniform(0, 400, (count, 2)), rng.uniform(4, 220, (count, 2))
        labels = rng.integers(0, classes, count)
        for xy, wh, label in zip(corner, size, labels):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=int(label) + 1,
                    bbox=[*xy.tolist(), *wh.tolist()],
                    area=float(wh.prod() * rng.uniform(0.5, 1)),
                    iscrowd=int(rng.random() < 0.05),
                )
            )
        near = np.concatenate((corner, corner + size), axis=1) + rng.normal(0, 8, (count, 4))
        far = rng.uniform(0, 300, (int(rng.integers(0, 20)), 2))
        far = np.concatenate((far, far + rng.uniform(4, 200, far.shape)), axis=1)
        boxes = np.concatenate((near, far))
        others = rng.integers(0, classes, len(far))
        scores = rng.random(len(boxes)).round(2)  # many are equal
        predictions = dict(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor(scores, dtype=torch.float32),
            labels=torch.tensor(np.concatenate((labels, others)), dtype=torch.int64),
        )
        samples.append(dict(img_id=image, ori_shape=(640, 640), pred_instances=predictions))
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg", width=640, height=640) for i in range(1, images + 1)],
        annotations=annotations,
        categories=[dict(id=i + 1, name=f"class {i}") for i in range(classes)],
    )
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file, samples


def evaluate(metric: Any, samples: list[Any], classes: int) -> tuple[dict[str, float], float]:
    """Metrics and seconds of the evaluation alone."""
    metric.dataset_meta = dict(classes=tuple(f"class {i}" for i in range(classes)))
    metric.process({}, samples)
    start = time.perf_counter()
    result = metric.evaluate(len(samples))
    return result, time.perf_counter() - start


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_coco, "is_installed", lambda: False)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bbox", "proposal"])
def test_numbers_are_pycocotools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, kind: str
) -> None:
    pytest.importorskip("faster_coco_eval")
    file, samples = random_set(tmp_path, images=40, classes=5, seed=seed)
    fast = FastCocoMetric(ann_file=str(file), metric=kind)
    found, _ = evaluate(fast, samples, 5)
    slowly(monkeypatch)
    slow = FastCocoMetric(ann_file=str(file), metric=kind)
    expected, _ = evaluate(slow, samples, 5)
    plain, _ = evaluate(CocoMetric(ann_file=str(file), metric=kind), samples, 5)
    assert found == expected == plain
    assert len(fast.unrounded["bbox"]) >= 12 and max(fast.unrounded["bbox"]) > 0.1
    assert np.abs(np.subtract(fast.unrounded["bbox"][:12], slow.unrounded["bbox"])).max() < 1e-6


def test_per_class_too(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    file, samples = random_set(tmp_path, images=30, classes=4)
    settings = dict(ann_file=str(file), metric="bbox", classwise=True, use_mp_eval=True)
    # With its scope, since a test before may have left another as the default one.
    found, _ = evaluate(METRICS.build(dict(type="mmdet.FastCocoMetric", **settings)), samples, 4)
    settings["use_mp_eval"] = False
    expected, _ = evaluate(CocoMetric(**settings), samples, 4)
    assert found == expected and "coco/class 3_precision" in found


def test_without_it_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slowly(monkeypatch)
    said: list[str] = []
    logger = fast_coco.MMLogger.get_current_instance()
    monkeypatch.setattr(logger, "info", lambda text, *_: said.append(text))
    file, samples = random_set(tmp_path, images=6, classes=2)
    metric = FastCocoMetric(ann_file=str(file))
    for _ in range(2):
        evaluate(metric, samples, 2)
    assert sum("pip install faster-coco-eval" in line for line in said) == 1


def test_mmdet_s_own_evaluators_come_back(tmp_path: Path) -> None:
    kept = coco_metric.COCOeval, coco_metric.COCOevalMP
    file, samples = random_set(tmp_path, images=4, classes=2)
    samples[0]["pred_instances"]["labels"] += 7  # no such class: the evaluation fails
    with pytest.raises(IndexError):
        evaluate(FastCocoMetric(ann_file=str(file)), samples, 2)
    assert (coco_metric.COCOeval, coco_metric.COCOevalMP) == kept


@pytest.mark.slow
def test_a_large_set_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval")
    file, samples = random_set(tmp_path, images=1500, classes=80)
    fast = FastCocoMetric(ann_file=str(file))
    evaluate(fast, samples, 80)
    slowly(monkeypatch)
    slow = FastCocoMetric(ann_file=str(file))
    evaluate(slow, samples, 80)
    assert np.abs(np.subtract(fast.unrounded["bbox"][:12], slow.unrounded["bbox"])).max() < 1e-6
