from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mmdet_mobileformer.analysis.curves import plot_curves, read_log, smooth

LENGTH = 40  # iterations per epoch


def run(work_dir: Path, stamp: str, epochs: range, interval: int = 7, loss_of: Any = None) -> Path:
    """Writes a run's log as mmengine does: training steps, and a validation after each epoch."""
    lines = []
    text = []
    rng = np.random.default_rng(0)
    for epoch in epochs:
        for inner in range(interval, LENGTH + 1, interval):
            step = (epoch - 1) * LENGTH + inner
            loss = loss_of(step) if loss_of else 12 * np.exp(-step / 400) + 3 + rng.normal(0, 0.8)
            record = {"lr": 1e-4, "loss": float(loss), "loss_cls": 1.0, "epoch": epoch}
            lines.append({**record, "iter": step, "step": step})
            text.append(f"2026/01/01 - mmengine - INFO - Epoch(train) [{epoch}][{inner}/{LENGTH}]")
        ap = 0.3 * (1 - np.exp(-epoch / 8))
        lines.append({"coco/bbox_mAP": ap, "coco/bbox_mAP_50": 1.7 * ap, "step": epoch})
    vis = work_dir / stamp / "vis_data"
    vis.mkdir(parents=True)
    file = vis / "scalars.json"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (work_dir / stamp / f"{stamp}.log").write_text("\n".join(text))
    return file


def test_epoch_log(tmp_path: Path) -> None:
    file = run(tmp_path, "20260101_000000", range(1, 6))
    for path in (file, file.parent, file.parent.parent, tmp_path):
        log = read_log(path)
        assert (log.by_epoch, log.epoch_length) == (True, LENGTH)
        x, loss = log.loss()
        assert len(x) == 5 * 5
        assert x[0] == 7 / LENGTH
        assert x[-1] == (4 * LENGTH + 35) / LENGTH
        assert np.isfinite(loss).all()
        epochs, ap = log.metric("bbox_mAP")
        assert epochs.tolist() == [1, 2, 3, 4, 5]
        assert ap[-1] == pytest.approx(0.3 * (1 - np.exp(-5 / 8)))
        assert log.metric("bbox_mAP_50")[1] == pytest.approx(1.7 * ap)


def test_resumed_run_continues_and_replaces(tmp_path: Path) -> None:
    run(tmp_path, "20260101_000000", range(1, 5), loss_of=lambda step: 100 + step)
    run(tmp_path, "20260102_000000", range(4, 7), loss_of=lambda step: 200 + step)
    log = read_log(tmp_path)
    x, loss = log.loss()
    assert (np.diff(x) > 0).all()
    assert len(x) == 6 * 5
    assert (loss[: 3 * 5] < 100 + 3 * LENGTH).all()  # epochs 1 to 3 are of the first run
    assert (loss[3 * 5 :] > 200).all()
    assert log.metric("bbox_mAP")[0].tolist() == [1, 2, 3, 4, 5, 6]


def test_run_from_scratch_starts_anew_and_tests_are_skipped(tmp_path: Path) -> None:
    run(tmp_path, "20260101_000000", range(1, 9))
    run(tmp_path, "20260102_000000", range(1, 3))
    test_run = tmp_path / "20260103_000000" / "vis_data"
    test_run.mkdir(parents=True)
    (test_run / "scalars.json").write_text('{"coco/bbox_mAP": 0.9, "step": 0}\n')
    log = read_log(tmp_path)
    assert len(log.train) == 2 * 5
    assert log.metric("bbox_mAP")[0].tolist() == [1, 2]


def test_iteration_log(tmp_path: Path) -> None:
    file = tmp_path / "scalars.json"
    rows = [{"loss": 3.0, "iter": i, "step": i} for i in (10, 20, 30)]
    rows.append({"coco/bbox_mAP": -1.0, "step": 20})
    rows.append({"coco/bbox_mAP": 0.2, "step": 30})
    file.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"loss": 2.0, "it')  # killed
    log = read_log(file)
    assert (log.by_epoch, log.epoch_length) == (False, None)
    assert log.loss()[0].tolist() == [10, 20, 30]
    assert log.metric("bbox_mAP")[0].tolist() == [30]  # -1: nothing to measure


def test_epoch_length_without_text_log(tmp_path: Path) -> None:
    run(tmp_path, "20260101_000000", range(1, 30), interval=10)
    (tmp_path / "20260101_000000" / "20260101_000000.log").unlink()
    assert read_log(tmp_path).epoch_length == LENGTH


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_log(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="has no log"):
        read_log(tmp_path)
    file = tmp_path / "scalars.json"
    file.write_text('{"coco/bbox_mAP": 0.9, "step": 0}\n')
    with pytest.raises(ValueError, match="no record of a training step"):
        read_log(file)
    file.write_text('nonsense\n{"loss": 1, "iter": 1}\n')
    with pytest.raises(ValueError, match="line 1 of"):
        read_log(file)


def test_smooth_keeps_constants_and_reduces_noise() -> None:
    assert smooth(np.full(30, 2.5)) == pytest.approx(np.full(30, 2.5))
    noise = np.random.default_rng(0).normal(0, 1, 500)
    assert smooth(noise).std() < 0.3
    assert smooth(np.array([4.0])).tolist() == [4.0]


def colour_share(image: np.ndarray, hexcode: str) -> float:
    bgr = [int(hexcode[i : i + 2], 16) for i in (5, 3, 1)]
    return float((np.abs(image.astype(int) - bgr).max(axis=2) < 40).mean())


def test_plot_shows_loss_and_ap(tmp_path: Path) -> None:
    run(tmp_path / "demo", "20260101_000000", range(1, 21))
    out = plot_curves(tmp_path / "demo", tmp_path / "new" / "curves.png")
    image = cv2.imread(str(out))
    assert min(image.shape[:2]) >= 600
    half = image.shape[0] // 2
    assert colour_share(image[:half], "#1f5fa8") > 1e-3  # loss above
    assert colour_share(image[half:], "#c2410c") > 1e-3  # AP below
    assert colour_share(image[half:], "#1f5fa8") == 0


def test_plot_without_validation_and_with_nan(tmp_path: Path) -> None:
    run(tmp_path, "20260101_000000", range(1, 3), loss_of=lambda s: np.nan if s == 14 else s)
    file = tmp_path / "20260101_000000" / "vis_data" / "scalars.json"
    file.write_text("".join(f"{s}\n" for s in file.read_text().splitlines() if "mAP" not in s))
    image = cv2.imread(str(plot_curves(tmp_path, tmp_path / "curves.png")))
    assert colour_share(image, "#1f5fa8") > 1e-3
    assert image.shape[0] < 500  # one panel: no empty AP axes
    assert colour_share(image, "#ff0000") > 0  # the NaN is marked
