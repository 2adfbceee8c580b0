"""Whether training waits for its data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet.models")
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from mmengine.config import Config  # noqa: E402
from tiny_run import make_run  # noqa: E402

from mmdet_mobileformer.analysis.data_time import from_log, try_out  # noqa: E402
from mmdet_mobileformer.data.redirect import redirect_data_root  # noqa: E402


def log(folder: Path, records: list[dict[str, float]]) -> Path:
    file = folder / "scalars.json"
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return file


def test_from_a_log(tmp_path: Path) -> None:
    # The first record, in which the workers start, does not count.
    records = [
        dict(loss=1.0, iter=i, epoch=1, time=t, data_time=d)
        for i, t, d in ((1, 9.0, 8.0), (2, 0.5, 0.01), (3, 0.7, 0.03))
    ]
    found = from_log(log(tmp_path, records))
    assert found.steps == 2
    assert (found.data_ms, found.worst_ms) == (pytest.approx(20), pytest.approx(30))
    assert found.step_ms == pytest.approx(580)
    assert found.share == pytest.approx(0.04 / 1.2)
    assert "3.3 % is waiting: training does not wait" in found.text()


def test_a_run_that_waits(tmp_path: Path) -> None:
    records = [dict(loss=1.0, iter=1, time=1.0, data_time=0.4)]
    assert "40.0 % is waiting: training waits for data" in from_log(log(tmp_path, records)).text()


def test_a_log_without_times(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data_time"):
        from_log(log(tmp_path, [dict(loss=1.0, iter=1)]))


def test_tried_out(tmp_path: Path) -> None:
    config, data = make_run(tmp_path)
    cfg = Config.fromfile(str(config))
    cfg.train_dataloader.dataset.times = 4
    redirect_data_root(cfg, data)
    waiting, rate = try_out(cfg, workers=1, steps=3)
    assert waiting.steps == 3 and waiting.step_ms > 0 and rate > 0
    with pytest.raises(ValueError, match="too few for 50 steps"):
        try_out(cfg, workers=1, steps=50)
