"""tools/swap_backbone.py as a user runs it, and what it writes in tools/train.py."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmengine.config import Config  # noqa: E402

from mmdet_mobileformer.swap import check  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "train"))
from tiny_run import make_data  # noqa: E402

BASE = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"


@pytest.fixture(autouse=True)
def _one_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check, "SIDES", (128,))
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, tool: str, *args: object) -> None:
    """Run a tool in this process, without the seconds of its imports."""
    monkeypatch.setattr(sys, "argv", [tool, *map(str, args)])
    monkeypatch.setenv("LOCAL_RANK", "0")
    runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")


def swap(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    run(monkeypatch, "swap_backbone.py", *args)


def test_a_config_by_name_that_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "retinanet.py"
    swap(monkeypatch, BASE, "--arch", "26m", "--neck", "mobileformer", "-o", out, "--shape", 64, 96)
    said = capsys.readouterr().out
    assert "checked: 128x128 px: loss " in said and f"written: {out}" in said
    lines = {line[:28].strip(): line[28:].split() for line in said.splitlines() if line[:1] != " "}
    assert lines["at"] == ["64x96", "64x96"]
    before, after = map(float, lines["params M"])
    assert before > after > 5
    before, after = map(float, lines["MAdds G"])
    assert before > after > 0.5

    text = out.read_text()
    assert f"_base_ = '{BASE}'" in text and len(text.splitlines()) < 40
    assert [path.name for path in out.parent.iterdir()] == ["retinanet.py"]
    cfg = Config.fromfile(str(out))
    assert (cfg.model.backbone.type, cfg.model.neck.type) == ("MobileFormer", "MobileFormerFPN")

    # The written file is what tools/train.py takes.
    data = make_data(tmp_path / "data")
    for old, new in (("instances_train", "instances_train2017"), ("instances_val", "instances_val2017")):
        (data / f"annotations/{old}.json").rename(data / f"annotations/{new}.json")
    for split in ("train", "val"):
        (data / split).rename(data / f"{split}2017")
    options = [
        "model.bbox_head.num_classes=2",
        "train_dataloader.dataset.metainfo.classes=('box','disc')",
        "train_dataloader.num_workers=0",
        "val_dataloader=None",
        "val_cfg=None",
        "val_evaluator=None",
        "train_cfg.max_epochs=1",
        "train_dataloader.dataset.pipeline.2.scale=(128,128)",
    ]
    work = tmp_path / "work"
    run(monkeypatch, "train.py", out, "--data-root", data, "--work-dir", work, "--cfg-options", *options)
    saved = torch.load(work / "epoch_1.pth", weights_only=True)
    assert "backbone.tokens" in saved["state_dict"]


def test_a_local_base_is_named_relative_to_the_new_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = tmp_path / "own.py"
    base.write_text(f"_base_ = '{BASE}'\nmodel = dict(bbox_head=dict(num_classes=7))\n")
    out = tmp_path / "sub" / "out.py"
    swap(monkeypatch, base, "--arch", "96m", "-o", out, "--no-check", "--no-count")
    assert "_base_ = '../own.py'" in out.read_text()
    cfg = Config.fromfile(str(out))
    assert cfg.model.bbox_head.num_classes == 7 and cfg.model.backbone.arch == "96m"


@pytest.mark.parametrize(
    "base, flags, message",
    [
        ("mmdet::nothing/x.py", (), "config mmdet::nothing/x.py does not exist"),
        (BASE, ("--arch", "7m"), "arch '7m' is unknown: choose one of 508m, "),
        (BASE, ("--shape", "5", "5"), "shape 5x5 does not do"),
        (
            "mmdet::rpn/rpn_r50-caffe-c4_1x_coco.py",
            ("--neck", "mobileformer"),
            "takes an FPN's place, but RPN has no neck here",
        ),
        ("mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py", (), "has a text backbone"),
    ],
)
def test_one_sentence_and_no_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    base: str,
    flags: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        swap(monkeypatch, base, "--arch", "26m", "-o", tmp_path / "out.py", *flags)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.py"
    out.write_text("precious = 1\n")
    flags = (BASE, "--arch", "26m", "-o", out, "--no-check", "--no-count")
    with pytest.raises(SystemExit):
        swap(monkeypatch, *flags)
    assert "exists: name another file or give --overwrite" in capsys.readouterr().err
    assert out.read_text() == "precious = 1\n"
    swap(monkeypatch, *flags, "--overwrite")
    assert "MobileFormer" in out.read_text()


def test_a_detector_that_fails_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.py"
    # Its head is too wide for its neck, with either backbone in another way.
    base.write_text(f"_base_ = '{BASE}'\nmodel = dict(neck=dict(out_channels=64))\n")
    out = tmp_path / "out.py"
    monkeypatch.setattr(
        check, "check_config", lambda cfg, any_backbone=False: _fail(any_backbone, same=False)
    )
    with pytest.raises(SystemExit):
        swap(monkeypatch, base, "--arch", "26m", "-o", out, "--no-count")
    assert "the loss fails: x (nothing was written; --no-check writes it)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["base.py"]

    monkeypatch.setattr(
        check, "check_config", lambda cfg, any_backbone=False: _fail(any_backbone, same=True)
    )
    swap(monkeypatch, base, "--arch", "26m", "-o", out, "--no-count")
    said = capsys.readouterr().out
    assert "not checked: the loss fails: x, with the old backbone as well" in said
    assert out.exists()


def _fail(any_backbone: bool, same: bool) -> None:
    raise check.CheckError("the loss fails: x" if same or not any_backbone else "it cannot be built")


def test_a_package_that_the_heads_need_is_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.py"
    base.write_text(f"_base_ = '{BASE}'\ncustom_imports = dict(imports=['not_there'])\n")
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="not_there failed"):
        swap(monkeypatch, base, "--arch", "26m", "-o", tmp_path / "out.py", "--no-count")
    assert "asks for a package that is missing: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["base.py"]


def test_what_cannot_run_here_is_written_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = "mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py", tmp_path / "out.py"
    swap(monkeypatch, base, "--arch", "26m", "-o", out, "--shape", 64, 64)
    said = capsys.readouterr().out
    assert "not checked: the loss fails on a CPU, since mmcv has no CPU version of carafe" in said
    assert said.count("not counted: ") == 2 and out.exists()
