"""Picture files of every kind and damage."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mmdet_mobileformer.data.pictures import file_problem, inspect_picture, read_header

PIXELS = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


def encoded(kind: str = "JPEG", mode: str = "RGB", **kwargs: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, kind, **kwargs)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    result = Image.Exif()
    result[0x0112] = orientation
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "picture"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_whole_and_cut(file: Path, kind: str) -> None:
    content = encoded(kind)
    file.write_bytes(content)
    assert file_problem(file) is None
    assert inspect_picture(file).problem is None
    file.write_bytes(content[: len(content) // 2])
    assert inspect_picture(file).problem is not None
    if kind != "TIFF":  # its end says nothing: only decoding finds it
        assert "is truncated or damaged" in str(file_problem(file))


@pytest.mark.parametrize("missing", [2, 30])
def test_a_jpeg_without_its_last_bytes(file: Path, missing: int) -> None:
    file.write_bytes(encoded()[:-missing])
    assert "truncated" in str(file_problem(file))


def test_data_behind_the_end_is_no_damage(file: Path) -> None:
    for extra in (b"\0" * 100, b"appended" * 2000):
        file.write_bytes(encoded() + extra)
        assert file_problem(file) is None and inspect_picture(file).problem is None


def test_no_file_no_picture(file: Path) -> None:
    assert file_problem(file) == "does not exist"
    file.write_bytes(b"")
    assert file_problem(file) == "is empty (0 bytes)"
    assert "opened" in str(file_problem(file.parent))
    file.write_bytes(b"some text, surely")
    assert inspect_picture(file).problem == "is no picture"
    assert read_header(file) is None


def test_a_png_with_a_flipped_byte(file: Path) -> None:
    content = bytearray(encoded("PNG"))
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    assert file_problem(file) is None, "the ends are whole"
    assert inspect_picture(file).problem is not None


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "1"])
def test_modes(file: Path, mode: str) -> None:
    file.write_bytes(encoded("JPEG" if mode == "CMYK" else "PNG", mode))
    header = read_header(file)
    assert header is not None and header.mode == mode
    assert header.stored == header.upright == (40, 30)
    assert inspect_picture(file).problem is None


def test_bits(file: Path) -> None:
    for shape in ((30, 40, 3), (30, 40)):
        wide = np.full(shape, 4000, np.uint16)
        file.write_bytes(cv2.imencode(".png", wide)[1].tobytes())
        header = read_header(file)
        assert header is not None and header.bits == 16
        assert inspect_picture(file).problem is None
    file.write_bytes(encoded("PNG"))
    header = read_header(file)
    assert header is not None and header.bits == 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_upright_size_is_what_training_sees(file: Path, kind: str, orientation: int) -> None:
    file.write_bytes(encoded(kind, exif=exif(orientation)))
    header = read_header(file)
    decoded = cv2.imread(str(file), cv2.IMREAD_COLOR)
    assert header is not None and decoded is not None
    assert header.orientation == orientation and header.stored == (40, 30)
    assert header.upright == (decoded.shape[1], decoded.shape[0])


def test_equal_pixels_have_equal_hashes(file: Path) -> None:
    hashes = []
    for content in (encoded("PNG"), encoded("PNG", compress_level=0), encoded("BMP"), encoded()):
        file.write_bytes(content)
        hashes.append(inspect_picture(file).pixels)
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
