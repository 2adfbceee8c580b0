"""`python -m mmdet_mobileformer doctor` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet.datasets")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from small_set import coco, config, cut, make_set, write_split  # noqa: E402

from mmdet_mobileformer.__main__ import main  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "data", train=20, val=4)


@pytest.fixture
def file(root: Path, tmp_path: Path) -> Path:
    cfg = config(root, tmp_path / "work")
    cfg.model = dict(type="E2EMF", bbox_head=dict(type="E2EMFHead", num_classes=2))
    cfg.dump(tmp_path / "mine.py")
    return tmp_path / "mine.py"


def doctor(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["doctor", "--no-stack", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_config(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = doctor(capsys, file)
    assert code == 0 and not err
    assert "Data set train_dataloader" in out and out.endswith("Nothing to do.\n")


def test_quick_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, file, "--quick")
    assert code == 0 and "without --quick every picture is decoded" in out


def test_a_folder_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, "--data-root", root)
    assert code == 0 and "Data set train: " in out and "Data set val: " in out


def test_findings_and_exit_codes(
    root: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(root / "train/003.jpg")
    code, out, _ = doctor(capsys, file)
    assert code == 0 and "003.jpg is truncated" in out and "What to do:" in out
    assert doctor(capsys, file, "--strict")[0] == 1
    cut(root / "val/102.jpg")
    code, out, _ = doctor(capsys, file, "--json")
    found = json.loads(out)
    assert code == found["exit_code"] == 1
    assert {f["check"] for f in found["findings"]} == {"file-damaged"}
    assert found["findings"][0]["where"] == "val_dataloader"
    assert found["findings"][0]["names"][0].startswith("102.jpg is truncated")


def test_another_folder_for_a_config(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    write_split(mine / "train/_annotations.coco.json", mine / "train", coco(9, ("x", "y", "z")))
    code, out, _ = doctor(capsys, file, "--data-root", mine)
    assert code == 1 and "none of the config's 2 classes (cat, dog)" in out
    assert "no validation split: tools/train.py will take a tenth" in out
    code, out, _ = doctor(capsys, file, "--data-root", mine, "--classes", "auto")
    assert code == 0 and "9 boxes, 3 classes" in out
    assert not (mine / "mobileformer_split").exists(), "the doctor writes nothing"


def test_missing_data_is_a_finding(
    root: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "annotations/instances_val.json").unlink()
    (root / "annotations/instances_train.json").unlink()
    code, out, _ = doctor(capsys, file, "--data-root", root)
    assert code == 1 and "instances_val.json cannot be read" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("no.py",), "config no.py does not exist"),
        (("--data-root", "nowhere"), "data root nowhere is no folder"),
        (("FILE", "--data-root", "nowhere"), "nowhere/annotations/instances_train.json"),
        (("FILE", "--classes", "cow"), "--classes cow: cow is not in"),
        (("BAD",), "bad.py cannot be read: SyntaxError"),
    ],
)
def test_bad_input(
    args: tuple[str, ...], message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = file.with_name("bad.py")
    bad.write_text("x = (")
    names = {"FILE": str(file), "BAD": str(bad)}
    code, out, err = doctor(capsys, *(names.get(arg, arg) for arg in args))
    assert code == 2 and not out
    assert err.startswith("doctor: ") and message in err and err.count("\n") == 1


def test_wrong_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["doctor", "--no-such-flag"], ["nothing"], []):
        with pytest.raises(SystemExit) as exit_:
            main(args)
        assert exit_.value.code == 2
    capsys.readouterr()


def test_options(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = "model.bbox_head.num_classes=7"
    code, out, _ = doctor(capsys, file, "--cfg-options", option)
    assert code == 1 and "model.bbox_head.num_classes is 7" in out


@pytest.mark.slow
def test_as_a_command(root: Path, file: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mmdet_mobileformer", "doctor", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Stack: python 3") and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "error", "advice"),
    [
        ("cv2", "libGL.so.1: cannot open shared object file", "apt-get install libgl1"),
        ("torch", "No module named 'torch'", "make setup"),
    ],
)
def test_on_a_broken_stack(
    root: Path, tmp_path: Path, module: str, error: str, advice: str
) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise ImportError({error!r})")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "mmdet_mobileformer", "doctor", "--data-root", str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert error in done.stdout and advice in done.stdout and "Traceback" not in done.stderr
