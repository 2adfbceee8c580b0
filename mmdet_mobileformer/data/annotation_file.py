"""Reading COCO annotation files fast, and once."""

from __future__ import annotations

import gc
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

#: A polygon list: only brackets, numbers and spaces. It makes up most of a COCO file.
_POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[\[\]\s0-9.,eE+-]*\]')


def read_annotations(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a COCO annotation file without its polygons, four times faster than whole (ours).

    The result is shared between callers and must not be changed. The last few files are kept until
    :func:`forget_annotations`.

    Returns:
        The content; lists of polygons are empty lists.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, or not the JSON of an annotation file.
    """
    path = Path(path).expanduser()
    try:
        state = path.stat()
    except OSError as error:
        raise FileNotFoundError(
            f"annotation file {path} cannot be read ({error.strerror}): give the file of an export"
        ) from error
    return _read(str(path.resolve()), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _read(path: str, _modified: int, _size: int) -> dict[str, Any]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"annotation file {path} cannot be read: {error}") from error
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(
            f"annotation file {path} starts with a byte order mark, at which pycocotools stops: "
            "save it as UTF-8 without one"
        )
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects are made and none is garbage: twice as fast
    try:
        content = json.loads(_POLYGONS.sub(b'"segmentation":[]', data))
    except (ValueError, RecursionError) as error:
        reason = "it is empty" if not data.strip() else str(error)
        raise ValueError(
            f"annotation file {path} is no JSON ({reason}): export it again in COCO format"
        ) from error
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(
            f"annotation file {path} is not in COCO format: it needs an object with the lists "
            "images, annotations and categories"
        )
    return content


def forget_annotations() -> None:
    """Free the memory of the files read so far."""
    _read.cache_clear()
