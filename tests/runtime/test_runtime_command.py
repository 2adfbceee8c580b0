"""The command mobileformer-detect, from its arguments to its files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import make_model  # noqa: E402

from mmdet_mobileformer.runtime.command import Progress, main, parse_args  # noqa: E402
from mmdet_mobileformer.runtime.sources import Video  # noqa: E402


def paint(file: Path, red: int, height: int = 50, width: int = 80) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 2] = red
    assert cv2.imwrite(str(file), picture)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one of them below, and a file that is no picture."""
    paint(tmp_path / "in" / "b" / "weak.png", 100)
    paint(tmp_path / "in" / "a.png", 255)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path / "in"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny.onnx")


def detect(*args: object) -> int:
    return main([str(arg) for arg in args])


def test_folder_to_results_and_pictures(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert detect(model, folder, "--out", out) == 0
    assert "3 detections in 2 pictures" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in results] == [(1, 1), (1, 2), (2, 1)]
    np.testing.assert_allclose(results[0]["bbox"], [8, 10, 32, 20], atol=1e-4)
    assert results[0]["score"] == pytest.approx(0.9, abs=1e-4)
    named = json.loads((out / "images.json").read_text())
    assert [image["file_name"] for image in named["images"]] == ["a.png", "b/weak.png"]
    assert named["images"][0]["width"] == 80 and named["categories"][2] == {"id": 3, "name": "bird"}
    drawn = cv2.imread(str(out / "pictures" / "b" / "weak.png"))
    assert drawn.shape == (50, 80, 3)
    assert not np.array_equal(drawn, cv2.imread(str(folder / "b" / "weak.png")))


def test_results_load_in_pycocotools(model: Path, folder: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    assert detect(model, folder, "--out", tmp_path / "out", "--no-pictures", "--threshold", 0) == 0
    assert not (tmp_path / "out" / "pictures").exists()
    truth = coco.COCO(str(tmp_path / "out" / "images.json"))
    assert len(truth.loadRes(str(tmp_path / "out" / "results.json")).anns) == 6


def test_ids_of_an_annotation_file(model: Path, folder: Path, tmp_path: Path) -> None:
    annotations = {
        "images": [{"id": 70, "file_name": "a.png"}, {"id": 9, "file_name": "b/weak.png"}],
        "categories": [{"id": 17, "name": "dog"}, {"id": 5, "name": "horse"}],
        "annotations": [],
    }
    (tmp_path / "ann.json").write_text(json.dumps(annotations))
    assert detect(model, folder, "--out", tmp_path / "out", "--ann", tmp_path / "ann.json") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    # The cats, which the annotations do not know, are left out.
    assert [(entry["image_id"], entry["category_id"]) for entry in results] == [(70, 17)]


def test_without_out_it_prints(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect(model, folder / "a.png", folder / "b" / "weak.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a.png: 1 cat, 1 dog", "weak.png: 1 cat"]


def test_a_bad_picture_is_left_out(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a0.jpg").write_bytes(b"no picture")
    assert detect(model, folder, "--out", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "a0.jpg is no picture" in captured.err and "in 2 pictures" in captured.out
    named = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [image["id"] for image in named["images"]] == [1, 2]


def test_video(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), code, 10.0, (80, 50))
    for red in (255, 255, 120, 0, 0):
        writer.write(np.full((50, 80, 3), (0, 0, red), dtype=np.uint8))
    writer.release()
    out = tmp_path / "out"
    assert detect(model, tmp_path / "in.avi", "--out", out, "--frames", 4) == 0
    assert "in 4 pictures" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [entry["image_id"] for entry in results] == [1, 1, 2, 2, 3]
    made = Video(out / "video.mp4")
    frames = list(made)
    assert len(frames) == 4 and frames[0].shape == (50, 80, 3) and made.rate == pytest.approx(10)
    # Where the second frame had a box, the last one, which is black, has none.
    assert frames[1].astype(int).sum() > frames[3].astype(int).sum() + 1000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent.jpg"], "absent.jpg does not exist"),
        (["empty"], "folder empty holds no picture"),
        (["notes.txt"], "notes.txt is neither a picture"),
        (["in", "in"], "a.png is there twice"),
        (["fake.mp4"], "fake.mp4 is no video"),
        (["fake.mp4", "in"], "one video or camera by itself"),
        (["in", "--out", "in"], "in exists already"),
        (["in", "--ann", "absent.json"], "annotation file absent.json does not exist"),
        (["in", "--ann", "notes.txt"], "no COCO annotation file"),
        (["in", "--ann", "few.json"], "few.json does not name a.png"),
        (["in", "--ann", "other.json"], "other.json has none of the model's classes"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    sentence: str,
    model: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "fake.mp4").write_text("no video")
    few = {"images": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "few.json").write_text(json.dumps(few))
    other = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "owl"}]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    before = sorted(tmp_path.rglob("*"))
    assert detect(model, *arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_arguments() -> None:
    args = parse_args(["model.xml", "a.jpg", "b.jpg"])
    assert args.model == "model.xml" and args.inputs == ["a.jpg", "b.jpg"]
    assert parse_args(["a.jpg"]).model is None
    for wrong in (["model.onnx"], ["a.jpg", "--threshold", "2"], ["a.jpg", "--frames", "0"]):
        with pytest.raises(SystemExit):
            parse_args(wrong)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress() -> None:
    terminal, kept = Terminal(), io.StringIO()
    for stream in (terminal, kept):
        progress = Progress(4, stream)
        for _ in range(4):
            progress.step()
        progress.close()
    assert kept.getvalue() == ""
    assert "[" + "#" * 30 + "] 4/4" in terminal.getvalue() and terminal.getvalue().endswith("\n")
    progress.done = 1
    assert progress.line(2.0) == "[" + "#" * 8 + "." * 22 + "] 1/4  0.5/s  6 s left "
    progress.total = None
    assert progress.line(2.0) == "1  0.5/s"
