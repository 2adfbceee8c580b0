"""train/demo.py, with a training that is stopped short."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.train.demo import run_demo, train_command  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def test_results_of_an_earlier_run_are_not_touched(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        run_demo(ROOT, tmp_path / "data", tmp_path)


def test_the_command_trains_with_a_process_per_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = ROOT / "configs" / "e2emf_demo.py"
    for cores, tool in ((8, "dist_train.sh"), (1, "train.py")):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        command = train_command(ROOT, config, tmp_path, tmp_path / "out", ["a=1"])
        assert command[1].endswith(tool)
        assert command[-2:] == ["--cfg-options", "a=1"]
        assert "--auto-scale-lr" in command
