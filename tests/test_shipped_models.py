"""models/: what is shipped is whole, small, and the same with and without PyTorch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from safetensors import safe_open

from mmdet_mobileformer.data.redirect import redirect_data_root
from mmdet_mobileformer.data.shapes import make_shapes
from mmdet_mobileformer.runtime import shipped_models
from mmdet_mobileformer.train.publish import MOST_BYTES

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
COCO_MINI = SHARED / "coco_mini"
FOLDERS = sorted(file.parent for file in (ROOT / "models").glob("*/SHA256SUMS"))


def photos() -> list[Path]:
    """Photos, one of them of a person; none where they are not."""
    return [file for name in ("astronaut.png", "mmdet_demo.jpg", "coffee.png")
            if (file := SHARED / "demo" / name).is_file()]


def drawings(tmp_path: Path) -> list[Path]:
    make_shapes(tmp_path / "shapes", {"train": 1, "val": 4})
    return sorted((tmp_path / "shapes" / "val").iterdir())


def weights_of(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def config_of(folder: Path) -> Path:
    return folder / f"{folder.name}.py"


def test_there_is_a_model_and_its_exported_file() -> None:
    assert FOLDERS
    assert set(shipped_models()) == {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
class TestFolder:
    def test_files_are_those_of_the_sums(self, folder: Path) -> None:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        sums = dict(reversed(line.split("  ")) for line in lines)
        assert set(sums) == {file.name for file in folder.iterdir()} - {"SHA256SUMS"}
        for name, expected in sums.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name

    def test_weights_are_half_precision_and_small(self, folder: Path) -> None:
        file = weights_of(folder)
        assert file.stat().st_size <= MOST_BYTES
        with safe_open(file, framework="pt") as content:
            names = list(content.keys())
            kinds = [content.get_slice(name).get_dtype() for name in names]
            classes = json.loads(content.metadata()["classes"])
        assert kinds.count("F16") > 0.9 * len(kinds)
        assert len(classes) == Config.fromfile(config_of(folder)).model.bbox_head.num_classes

    def test_the_card_says_what_it_must(self, folder: Path) -> None:
        card = (folder / "README.md").read_text(encoding="utf-8")
        for part in ("licence", "AP", "What it can do", "What it cannot do", "tools/test.py"):
            assert part in card, part
        assert hashlib.sha256(weights_of(folder).read_bytes()).hexdigest() in card

    def test_the_log_is_the_training_s(self, folder: Path) -> None:
        lines = (folder / "training_log.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert any("loss_bbox" in entry for entry in entries)
        assert any("coco/bbox_mAP" in entry for entry in entries)

    def test_the_exported_file_gives_the_boxes_of_pytorch(self, folder: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        from mmdet.apis import DetInferencer

        from mmdet_mobileformer.runtime import Detector

        pictures = photos() or drawings(tmp_path)
        inferencer = DetInferencer(
            str(config_of(folder)), str(weights_of(folder)), device="cpu", show_progress=False
        )
        detector = Detector(shipped_models()[folder.name])
        found = 0
        for picture in pictures:
            (theirs,) = inferencer(str(picture))["predictions"]
            ours = detector.predict(str(picture), threshold=0)
            scores = np.asarray(theirs["scores"])
            sure = int((scores >= 0.3).sum())
            found += sure
            np.testing.assert_allclose(ours.scores, scores, atol=1e-4)
            # Drawings have no sure ones to compare.
            top = max(sure, 3)
            np.testing.assert_allclose(ours.boxes[:top], theirs["bboxes"][:top], atol=0.05)
            assert ours.labels[:top].tolist() == theirs["labels"][:top]
        assert found >= 1 or not photos()

    @pytest.mark.slow
    @pytest.mark.skipif(not COCO_MINI.is_dir(), reason="coco_mini is not here")
    def test_the_score_is_the_card_s(self, folder: Path, tmp_path: Path) -> None:
        from mmengine.runner import Runner

        cfg = Config.fromfile(config_of(folder))
        redirect_data_root(cfg, str(COCO_MINI))
        cfg.work_dir, cfg.load_from = str(tmp_path / "work"), str(weights_of(folder))
        metrics = Runner.from_cfg(cfg).test()
        (printed,) = re.findall(r"AP on val[^0-9]*([0-9.]+)", (folder / "README.md").read_text())
        assert metrics["coco/bbox_mAP"] == pytest.approx(float(printed), abs=0.002)
