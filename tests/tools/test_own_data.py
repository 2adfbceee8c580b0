"""Own data in one command: tools/train.py on an export of a labelling tool, with bad files in it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.models")

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "train"), str(ROOT / "tests" / "data")]
from small_set import coco, cut, write_split  # noqa: E402
from tiny_run import make_run  # noqa: E402

CLASSES = ("ant", "bee", "wasp")


def run(monkeypatch: pytest.MonkeyPatch, tool: str, *args: object, cwd: Path) -> None:
    """Run a tool in this process, as tests/tools/test_train_test.py does."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [tool, *map(str, args)])
    monkeypatch.setenv("LOCAL_RANK", "0")
    runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    return make_run(tmp_path / "tiny")[0]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """As Roboflow exports it: no validation split, a root category, a thin box, a cut picture."""
    content = coco(24, CLASSES)
    root = dict(id=0, name="insects", supercategory="none")
    content["categories"] = [root, *(dict(c, supercategory="insects") for c in content["categories"])]
    content["annotations"][5]["bbox"] = [3, 3, 0.2, 4]
    write_split(tmp_path / "mine/train/_annotations.coco.json", tmp_path / "mine/train", content)
    cut(tmp_path / "mine/train/004.jpg")
    return tmp_path / "mine"


def logs(work_dir: Path) -> str:
    return "\n".join(file.read_text() for file in work_dir.rglob("*.log"))


def test_one_command(
    config: Path,
    mine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()}
    flags = ("--data-root", mine, "--classes", "auto", "--work-dir", "work")
    run(monkeypatch, "train.py", config, *flags, cwd=tmp_path)
    out = capsys.readouterr().out
    assert "20 images of mobileformer_split/train.json in train/" in out
    assert "Classes (3): ant, bee, wasp" in out
    assert "006.jpg (annotation 6: [3, 3, 0.2, 4])" in out and "004.jpg is truncated" in out
    log = logs(tmp_path / "work")
    assert "bad samples in epoch 1: samples left out: 1, boxes left out on reading" in log
    checkpoint = torch.load(tmp_path / "work/epoch_1.pth", weights_only=True)
    assert tuple(checkpoint["meta"]["dataset_meta"]["classes"]) == CLASSES
    assert checkpoint["state_dict"]["bbox_head.fc_cls.weight"].shape[0] == 3 + 1
    assert {file: file.read_bytes() for file in before} == before, "nothing is overwritten"

    # The config in the work dir needs no flags.
    run(monkeypatch, "test.py", "work/tiny.py", "work/epoch_1.pth", cwd=tmp_path)
    assert "bbox_mAP" in capsys.readouterr().out

    # Two of the three classes, from this checkpoint.
    flags = ("--data-root", mine, "--classes", "ant,wasp", "--work-dir", "two")
    options = ("--cfg-options", "load_from=work/epoch_1.pth")
    run(monkeypatch, "train.py", config, *flags, *options, cwd=tmp_path)
    log = logs(tmp_path / "two")
    assert "the classifier of 3 classes starts anew (bbox_head.fc_cls.weight" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "none of the config's 2 classes (box, disc) is in the annotation file"),
        (("--classes", "auto", "--strict-data"), "006.jpg (annotation 6"),
        (("--classes", "auto", "--strict-data", "--skip-doctor"), "004.jpg: is truncated"),
        (("--classes", "fly"), "--classes fly: fly is not in"),
    ],
)
def test_refusals(
    flags: tuple[str, ...],
    message: str,
    config: Path,
    mine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--data-root", mine, "--work-dir", "work", *flags)
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "train.py", config, *arguments, cwd=tmp_path)
    assert exit_.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py")]
    assert len(lines) == 1 and message in lines[0]
    assert not list((tmp_path / "work").rglob("*.pth"))


@pytest.mark.slow
def test_the_doctor_can_be_skipped(
    config: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = ("--data-root", mine, "--classes", "auto", "--work-dir", "work")
    run(monkeypatch, "train.py", config, *split, cwd=tmp_path)
    # A picture of the validation split is gone: refused with the doctor, found by name without.
    val = json.loads((mine / "mobileformer_split/val.json").read_text())
    (mine / "train" / val["images"][0]["file_name"]).unlink()
    with pytest.raises(SystemExit):
        run(monkeypatch, "train.py", config, *split[:-1], "again", cwd=tmp_path)
    assert not list((tmp_path / "again").rglob("*.pth"))
    with pytest.raises(SystemExit):
        run(monkeypatch, "train.py", config, *split[:-1], "late", "--skip-doctor", cwd=tmp_path)
    assert (tmp_path / "late/epoch_1.pth").is_file(), "the epoch before the validation is saved"
