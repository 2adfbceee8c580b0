"""The runtime's boxes, sizes and errors, on a model whose answers are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import BOXES, CLASSES, info, make_model  # noqa: E402

from mmdet_mobileformer.runtime import Detector, ModelInfo, draw, read_picture  # noqa: E402
from mmdet_mobileformer.runtime import detector as detector_module  # noqa: E402
from mmdet_mobileformer.runtime.engine import onnx_property  # noqa: E402
from mmdet_mobileformer.runtime.metadata import KEY  # noqa: E402
from mmdet_mobileformer.runtime.picture import input_size, network_input  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RED = np.full((50, 80, 3), (255, 0, 0), dtype=np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny.onnx")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_boxes_are_in_the_pictures_pixels(model: Path, engine: str) -> None:
    pytest.importorskip(engine)
    found = Detector(model, engine, threads=1).predict(RED)
    np.testing.assert_allclose(found.boxes, BOXES[:2] * [80, 50, 80, 50], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9, 0.6], rtol=1e-5)
    assert found.names == ["cat", "dog"] and found.labels.dtype == np.int64


def test_colours_are_rgb(model: Path) -> None:
    detector = Detector(model)
    assert len(detector.predict(RED[..., ::-1], threshold=0.01)) == 0
    assert len(detector.predict(RED, threshold=0.0)) == 3


def test_openvinos_own_format(model: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    converted = openvino.convert_model(str(model))
    converted.set_rt_info(info().to_json(), [KEY])
    openvino.save_model(converted, str(tmp_path / "tiny.xml"), compress_to_fp16=False)
    found = Detector(tmp_path / "tiny.xml").predict(RED)
    np.testing.assert_allclose(found.scores, [0.9, 0.6], rtol=1e-5)


def test_batches_are_of_one_size_and_keep_the_order(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector(model)
    sizes: list[tuple[int, ...]] = []
    run = detector.engine.run

    def record(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sizes.append(images.shape)
        return run(images)

    monkeypatch.setattr(detector.engine, "run", record)
    tall = np.ascontiguousarray(RED.transpose(1, 0, 2))
    found = list(detector.predict_many([RED, RED // 2, tall, RED]))
    assert sizes == [(2, 3, 60, 96), (1, 3, 96, 60), (1, 3, 60, 96)]
    assert [len(one) for one in found] == [2, 1, 2, 2]
    assert found[2].boxes[1].tolist() == [0, 0, 50, 80]


def test_a_file_for_one_size_and_batch(tmp_path: Path) -> None:
    fixed = info(keep_ratio=False, scale=(70, 40)).to_json()
    detector = Detector(make_model(tmp_path / "fixed.onnx", fixed, shape=(2, 3, 40, 70)))
    assert detector.engine.size == (40, 70) and detector.engine.batch == 2
    found = list(detector.predict_many([RED, RED, RED]))
    assert [one.boxes[1].tolist() for one in found] == [[0, 0, 80, 50]] * 3


@pytest.mark.parametrize("keep_ratio", [True, False])
def test_the_input_is_mmdets(keep_ratio: bool, tmp_path: Path) -> None:
    transforms = pytest.importorskip("mmdet.datasets.transforms")
    loading = pytest.importorskip("mmcv.transforms")
    generator = np.random.default_rng(0)
    for height, width in ((37, 61), (480, 640), (101, 100), (333, 500)):
        file = tmp_path / f"{height}.jpg"
        cv2.imwrite(str(file), generator.integers(0, 255, (height, width, 3), dtype=np.uint8))
        results = loading.LoadImageFromFile()({"img_path": str(file)})
        resize = transforms.Resize(scale=(96, 64), keep_ratio=keep_ratio)
        expected = resize(results)["img"][..., ::-1].transpose(2, 0, 1)
        own = network_input(read_picture(file), info(keep_ratio=keep_ratio))
        np.testing.assert_array_equal(own, expected.astype(np.float32))


def test_the_rule_of_sizes_is_mmcvs() -> None:
    mmcv = pytest.importorskip("mmcv")
    rule = info(scale=(1333, 800))
    for height, width in np.random.default_rng(0).integers(30, 3000, (500, 2)).tolist():
        expected = mmcv.rescale_size((width, height), (1333, 800))
        if min(expected) >= 32:
            assert input_size(height, width, rule) == (expected[1], expected[0])


def test_normalising_outside(tmp_path: Path) -> None:
    plain, outside = info(), info(normalized_inside=False)
    expected = network_input(RED, plain)
    expected = (expected - np.reshape(plain.mean, (3, 1, 1))) / np.reshape(plain.std, (3, 1, 1))
    np.testing.assert_allclose(network_input(RED, outside), expected, rtol=1e-5)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_are_turned_as_mmcv_turns_them(orientation: int, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    mmcv = pytest.importorskip("mmcv")
    picture = image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "turned.jpg", exif=exif)
    read = read_picture(tmp_path / "turned.jpg")
    assert read.shape[:2] == ((30, 20) if orientation >= 5 else (20, 30))
    np.testing.assert_array_equal(read[..., ::-1], mmcv.imread(str(tmp_path / "turned.jpg")))


def test_description_comes_back() -> None:
    known = info(normalized_inside=False, keep_ratio=False, score_threshold=0.25)
    assert ModelInfo.from_json(known.to_json(), "a.onnx") == known


def test_properties_are_read_without_onnx(model: Path) -> None:
    assert onnx_property(model, KEY) == info().to_json()
    assert onnx_property(model, "other") is None


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("", "carries no description"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps({"format": 2, "version": "9.0"}), "format 2 .* or install version 9.0"),
        (info(pad_divisor=32).to_json(), "multiples of 32"),
    ],
)
def test_models_that_are_none_of_ours(description: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        Detector(make_model(tmp_path / "a.onnx", description))


def test_what_cannot_be_loaded(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x01no model")
    (tmp_path / "model.pth").write_bytes(b"")
    make_model(tmp_path / "other.onnx", outputs=("dets", "scores", "labels"))
    for file, engine, sentence in (
        ("damaged.onnx", None, "damaged.onnx cannot be loaded by onnxruntime"),
        ("model.pth", None, "must end in .onnx or .xml"),
        ("other.onnx", None, "outputs .'dets', 'scores', 'labels'. instead of"),
        ("tiny.onnx", "tensorrt", "'tensorrt' is unknown"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Detector(tmp_path / file, engine)
    with pytest.raises(FileNotFoundError, match="absent.onnx does not exist"):
        Detector(tmp_path / "absent.onnx")
    monkeypatch.setattr(detector_module, "shipped_models", dict)
    with pytest.raises(FileNotFoundError, match="no model is shipped with this installation"):
        Detector()


def test_pictures_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    detector = Detector(model)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for picture, sentence in (
        (tmp_path / "bad.jpg", "bad.jpg is no picture"),
        (tmp_path / "empty.png", "empty.png is no picture"),
        (np.zeros((5, 5, 3)), "uint8, .height, width, 3., not float64"),
        (np.zeros((5, 5), dtype=np.uint8), r"not uint8 \(5, 5\)"),
        (np.zeros((20, 900, 3), dtype=np.uint8), "900 x 20 px becomes 96 x 2 and"),
    ):
        with pytest.raises(ValueError, match=sentence):
            detector.predict(picture)
    with pytest.raises(FileNotFoundError):
        detector.predict(tmp_path / "absent.jpg")


def test_drawing(model: Path, tmp_path: Path) -> None:
    detector = Detector(model)
    grey = np.full((300, 400, 3), 255, dtype=np.uint8)
    before = grey.copy()
    found = detector.predict(grey)
    drawn = detector.draw(grey, found, tmp_path / "drawn.png")
    assert np.array_equal(grey, before)
    np.testing.assert_array_equal(read_picture(tmp_path / "drawn.png"), drawn)
    x1, y1, x2, y2 = found.boxes[0].round().astype(int)
    # The box's edges are painted, its middle is not.
    assert (drawn[y1 + 30 : y2, x1] != 255).any(axis=-1).all()
    assert (drawn[y2, x1 : x2 + 1] != 255).any(axis=-1).all()
    assert (drawn[(y1 + y2) // 2, (x1 + x2) // 2] == 255).all()
    assert np.array_equal(draw(grey, found.above(0.99)), grey)
    with pytest.raises(FileExistsError):
        detector.draw(grey, found, tmp_path / "drawn.png")
    with pytest.raises(ValueError, match="does not write"):
        detector.draw(grey, found, tmp_path / "drawn.txt")


_WITHOUT_TORCH = """
import sys
for name in ("torch", "mmengine", "mmcv", "mmdet"):
    sys.modules[name] = None
import mmdet_mobileformer
from mmdet_mobileformer.runtime import Detector
found = Detector({model!r}, {engine!r}).predict({picture!r})
print(found.names)
loaded = {{name.split(".")[0] for name, module in sys.modules.items() if module is not None}}
assert not loaded & {{"torch", "mmengine", "mmcv", "mmdet"}}, loaded
try:
    mmdet_mobileformer.MobileFormer
except ImportError as error:
    print(error)
try:
    mmdet_mobileformer.E2EMF
except ImportError as error:
    print(error)
"""


def test_nothing_of_torch_is_needed(model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), RED[..., ::-1])
    program = _WITHOUT_TORCH.format(
        model=str(model), engine="onnxruntime", picture=str(tmp_path / "red.png")
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(list(CLASSES[:2]))
    assert "MobileFormer needs torch and mmengine, which do not import here" in lines[1]
    assert "E2EMF needs mmdet, which does not import here" in lines[2]
