"""The whole examination, and what tools/train.py does with its quick part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mmengine.config import Config

pytest.importorskip("mmdet.datasets")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from small_set import change, coco, config, cut, make_set  # noqa: E402

from mmdet_mobileformer.data.annotation_file import _read  # noqa: E402
from mmdet_mobileformer.data.doctor.examine import (  # noqa: E402
    check_before_training,
    examine,
)
from mmdet_mobileformer.data.doctor.sets import sets_of_config  # noqa: E402

#: Beside the checkout where CI runs.
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco_mini"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "data", train=20, val=4)


@pytest.fixture
def cfg(root: Path, tmp_path: Path) -> Config:
    return config(root, tmp_path / "work")


def before(cfg: Config, strict: bool = False) -> list[str]:
    said: list[str] = []
    check_before_training(cfg, strict, said.append)
    return said


def test_good_data(cfg: Config) -> None:
    assert before(cfg) == [] and before(cfg, strict=True) == []
    assert _read.cache_info().currsize == 0, "gigabytes are not kept while training"
    report = examine(sets_of_config(cfg)[0], cfg)
    assert report.findings == [] and report.exit_code() == 0
    assert [(s.name, s.images, s.boxes, s.classes) for s in report.sets] == [
        ("train_dataloader", 20, 20, ["cat", "dog"]),
        ("val_dataloader", 4, 4, ["cat", "dog"]),
    ]


def test_what_is_left_out_is_said_and_strict_refuses(cfg: Config, root: Path) -> None:
    content = coco(20)
    content["annotations"][3]["bbox"] = [5, 5, -1, 4]
    change(root / "annotations/instances_train.json", **content)
    cut(root / "train/007.jpg")
    said = before(cfg)
    assert len(said) == 2 and "004.jpg (annotation 4" in said[0] and "007.jpg" in said[1]
    with pytest.raises(ValueError, match=r"004.jpg.*without --strict-data") as error:
        before(cfg, strict=True)
    assert "\n" not in str(error.value) and "1 more finding;" in str(error.value)
    report = check_before_training(cfg, say=lambda _: None)
    assert report.boxes_left_out == 1


def test_what_cannot_train_is_refused(cfg: Config, root: Path) -> None:
    cut(root / "val/102.jpg")
    with pytest.raises(ValueError, match=r"val_dataloader: .*102.jpg.*--skip-doctor") as error:
        before(cfg)
    text = str(error.value)
    assert "python -m mmdet_mobileformer doctor" in text and "\n" not in text


def test_the_config_is_named(tmp_path: Path, root: Path, cfg: Config) -> None:
    cfg.train_dataloader.dataset.metainfo.classes = ("person", "car")
    file = tmp_path / "mine.py"
    cfg.dump(file)
    with pytest.raises(ValueError, match=r"doctor .*mine.py`.*") as error:
        before(Config.fromfile(file))
    assert "none of the config's 2 classes" in str(error.value)


def test_unreadable_annotations_are_findings(cfg: Config, root: Path) -> None:
    (root / "annotations/instances_train.json").write_text("{")
    (root / "annotations/instances_val.json").unlink()
    report = examine(sets_of_config(cfg)[0], cfg)
    found = [f for f in report.findings if f.check == "annotation-file"]
    assert [f.where for f in found] == ["train_dataloader", "val_dataloader"]
    assert "is no JSON" in found[0].message and "cannot be read" in found[1].message
    assert report.exit_code() == 1


def test_progress(cfg: Config) -> None:
    calls: list[tuple[str, int, int]] = []
    examine(sets_of_config(cfg)[0], progress=lambda *args: calls.append(args))
    assert calls[0] == ("train_dataloader", 1, 20) and calls[-1] == ("val_dataloader", 4, 4)


def test_pictures_in_both_splits(cfg: Config, root: Path) -> None:
    (root / "val/102.jpg").write_bytes((root / "train/009.jpg").read_bytes())
    report = examine(sets_of_config(cfg)[0], cfg)
    [finding] = report.findings
    assert finding.check == "overlap-content" and finding.names == ["009.jpg = 102.jpg"]
    assert finding.where == "train_dataloader and val_dataloader"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no coco_mini on this machine")
def test_coco_mini() -> None:
    repository = Path(__file__).resolve().parents[3]
    from mmdet_mobileformer.data.redirect import redirect_data_root

    cfg = Config.fromfile(repository / "configs/e2emf_508m_coco.py")
    redirect_data_root(cfg, SHARED)
    report = check_before_training(cfg, say=lambda _: None)
    assert not report.of("error")
    assert {f.check for f in report.of("warning")} <= {"boxes-empty", "boxes-outside"}
    assert [s.images for s in report.sets] == [2333, 300]
