"""Picture files: whether one is whole, how large it is as training sees it, and of which kind.

Three depths: :func:`file_problem` reads the first and last bytes, :func:`read_header` the header,
:func:`inspect_picture` decodes every pixel as mmcv's LoadImageFromFile does (OpenCV, in colour).
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

#: A coordinate beyond this (px) is no position in a picture; training leaves such boxes out.
MOST_PIXELS = 1e6
#: Bytes at the end of a file in which its last marker is looked for: programs append to JPEGs.
_TAIL = 4096
#: EXIF orientations that exchange width and height when the picture is shown upright.
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"


class Header(NamedTuple):
    """What a header says. Sizes are (width, height) in px."""

    stored: tuple[int, int]
    upright: tuple[int, int]  # as EXIF asks to turn it, which OpenCV does by default
    orientation: int  # EXIF's, 1 is upright
    mode: str  # Pillow's: RGB, L, RGBA, CMYK ...
    bits: int  # per channel


class Picture(NamedTuple):
    """A picture file read in full.

    Exactly one of `problem` and `pixels` is set: a sentence part about why it cannot be used, or a
    hash of the decoded pixels. `header` is None where Pillow does not know the format.
    """

    problem: str | None
    header: Header | None
    pixels: str | None


def file_problem(path: str | os.PathLike[str]) -> str | None:
    """Say why a picture file cannot be used, from its first and last bytes; None if it seems whole.

    A file without the end marker of its format is decoded once to be sure, since some programs
    append data to a whole picture.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(32)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            tail = file.read()
    except FileNotFoundError:
        return "does not exist"
    except (PermissionError, IsADirectoryError) as error:
        return f"cannot be opened ({error.strerror})"
    if not size:
        return "is empty (0 bytes)"
    if _ends_well(head, tail, size):
        return None
    return _decoding_problem(path)


def _ends_well(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file ends as its format demands; True for formats that do not tell."""
    if head.startswith(b"\xff\xd8"):
        # The bytes FF D9 cannot stand inside the compressed data.
        return b"\xff\xd9" in tail
    if head.startswith(_PNG):
        return b"IEND" in tail
    if head.startswith(b"GIF8"):
        return b"\x3b" in tail[-2:]
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    if head.startswith(b"BM"):
        return int.from_bytes(head[2:6], "little") <= size
    return True


def _decoding_problem(path: str | os.PathLike[str]) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        return "is no picture"
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        return f"is truncated or damaged ({_first_line(error)})"
    return None


def read_header(path: str | os.PathLike[str]) -> Header | None:
    """Read a picture's header; None if Pillow cannot."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = int(image.getexif().get(_ORIENTATION) or 1)
            mode = image.mode
            if mode == "P" and "transparency" in image.info:
                mode = "RGBA"
            bits = _bits(path, image)
    except Exception:  # as above: anything, also for sizes that Pillow takes for an attack
        return None
    upright = (height, width) if orientation in _TURNED else (width, height)
    return Header((width, height), upright, orientation, mode, bits)


def _bits(path: str | os.PathLike[str], image: Image.Image) -> int:
    # Pillow calls a 16-bit colour PNG "RGB": its depth stands in byte 24.
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        value = getattr(image, "tag_v2", {}).get(258, 8)
        return int(max(value) if isinstance(value, tuple) else value)
    return 16 if image.mode.startswith("I;16") else 32 if image.mode in ("I", "F") else 8


def inspect_picture(path: str | os.PathLike[str]) -> Picture:
    """Decode a picture in full."""
    problem = file_problem(path)
    if problem is not None:
        return Picture(problem, read_header(path), None)
    header = read_header(path)
    try:
        with open(path, "rb") as file:
            content = np.frombuffer(file.read(), dtype=np.uint8)
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        return Picture(f"cannot be decoded ({_first_line(error)})", header, None)
    if decoded is None:
        return Picture(_decoding_problem(path) or "cannot be decoded by OpenCV", header, None)
    digest = hashlib.sha1(decoded.tobytes(), usedforsecurity=False)
    digest.update(str(decoded.shape).encode())
    return Picture(None, header, digest.hexdigest())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
