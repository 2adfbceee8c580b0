"""Checks of one COCO annotation file: structure, ids, boxes. No picture is opened.

What mmdet 3.3's CocoDataset does with each defect decides its level: whatever makes its loader
stop or mixes labels up is an error; whatever it leaves out without a word is a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..pictures import MOST_PIXELS
from .report import MOST_NAMES, Finding

_NUMBERS = (int, float)
_ID = (int, str, float)
#: What mmdet's loader takes from a field; of others it is enough that they are there.
_FIELDS: dict[str, tuple[type, ...]] = {
    "id": _ID,
    "image_id": _ID,
    "category_id": _ID,
    "file_name": (str,),
    "name": (str,),
    "area": _NUMBERS,
}


@dataclass
class Table:
    """The usable content of an annotation file as arrays.

    Attributes:
        files: file_name of every image, in the order of the file.
        sizes: [N, 2] width and height in px, as the file states them.
        categories: (id, name) in the order of the file, which is the order of mmdet's labels.
        owner: [A] index into `files` of every usable box.
        category: [A] index into `categories` of every usable box.
        boxes: How many boxes the file has, usable or not.
    """

    files: list[str] = field(default_factory=list)
    sizes: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    categories: list[tuple[int | str, str]] = field(default_factory=list)
    owner: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    category: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: int = 0

    @property
    def names(self) -> list[str]:
        """Category names in the order of the file."""
        return [name for _, name in self.categories]


def check_annotations(
    content: dict[str, Any], where: str, evaluated: bool = False
) -> tuple[Table, list[Finding]]:
    """Examine the content of a COCO annotation file.

    Args:
        content: The parsed JSON.
        where: Name of the data set, for the findings.
        evaluated: Whether COCO's AP is computed on it, which needs more fields than training.

    Returns:
        The usable part, and what is wrong with the rest. Never raises for bad content.
    """
    checker = _Checker(where, evaluated)
    table = Table()
    lists = checker.lists(content)
    image_ids = checker.images(lists["images"], table)
    checker.categories(lists["categories"], table)
    checker.boxes(lists["annotations"], image_ids, table)
    return table, checker.findings


class _Checker:
    def __init__(self, where: str, evaluated: bool) -> None:
        self.where = where
        self.evaluated = evaluated
        self.findings: list[Finding] = []

    def add(
        self, level: str, check: str, names: Sequence[str], message: str, advice: str, count: int
    ) -> None:
        """Record a finding; `{n}` in the message stands for the count."""
        if count:
            text = message.replace("{n}", f"{count:,}")
            names = list(names[:MOST_NAMES])
            self.findings.append(Finding(level, check, self.where, text, advice, count, names))

    def named(self, level: str, check: str, names: list[str], message: str, advice: str) -> None:
        self.add(level, check, names, message, advice, len(names))

    def lists(self, content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """The three lists, with only what is an object in them."""
        keys = ("images", "categories", "annotations")
        absent = [key for key in keys if not isinstance(content.get(key), list)]
        self.named("error", "structure", absent, "{n} of COCO's lists are missing", _EXPORT)
        result: dict[str, list[dict[str, Any]]] = {}
        for key in keys:
            entries = [] if key in absent else content[key]
            result[key] = [entry for entry in entries if isinstance(entry, dict)]
            message = f"{{n}} entries of {key} are no objects"
            self.add("error", "structure", (), message, _EXPORT, len(entries) - len(result[key]))
        return result

    def images(self, images: list[dict[str, Any]], table: Table) -> dict[Any, int]:
        """Fill in files and sizes; returns the index of every image id."""
        self._fields(images, "image", ("id", "file_name", "width", "height"))
        good, bad_size = [], []
        for image in images:
            if not (isinstance(image.get("id"), _ID) and isinstance(image.get("file_name"), str)):
                continue
            size = (image.get("width"), image.get("height"))
            if all(type(v) in _NUMBERS and 0 < v < MOST_PIXELS for v in size):  # type: ignore[operator]
                good.append(image)
            elif None not in size:
                bad_size.append(f"{image['file_name']} ({size[0]!r} x {size[1]!r})")
        self.named("error", "image-size", bad_size, "{n} images have no usable size", _SIZES)
        if not images:
            self.add("error", "no-images", (), "the list of images is empty", _EXPORT, 1)
        doubled = _doubled(image["id"] for image in good)
        self.named(
            "error",
            "image-id-duplicate",
            [str(key) for key in doubled],
            "{n} image ids are used more than once, so their boxes would go to one of the images",
            "Give every image an id of its own.",
        )
        index: dict[Any, int] = {}
        for image in good:
            index.setdefault(image["id"], len(table.files))
            table.files.append(image["file_name"])
        self.named(
            "warning",
            "image-file-duplicate",
            _doubled(table.files),
            "{n} files are listed as several images",
            "List every picture once, with all its boxes.",
        )
        sizes = [(image["width"], image["height"]) for image in good]
        table.sizes = np.array(sizes, dtype=np.float64).reshape(-1, 2)
        return index

    def categories(self, categories: list[dict[str, Any]], table: Table) -> None:
        """Fill in the categories."""
        self._fields(categories, "category", ("id", "name"))
        if not categories:
            self.add("error", "no-categories", (), "the list of categories is empty", _EXPORT, 1)
        table.categories = [
            (c["id"], c["name"])
            for c in categories
            if isinstance(c.get("id"), _ID) and isinstance(c.get("name"), str)
        ]
        for what, values in (
            ("id", [str(key) for key, _ in table.categories]),
            ("name", [name for _, name in table.categories]),
        ):
            self.named(
                "error",
                f"category-{what}-duplicate",
                _doubled(values),
                f"{{n}} category {what}s are used more than once, which mixes labels up",
                "Give every category one id and one name.",
            )

    def _fields(self, entries: list[dict[str, Any]], kind: str, keys: tuple[str, ...]) -> None:
        """Report entries without a field that mmdet's loader reads, or with an id of no use."""
        for key in keys:
            types = _FIELDS.get(key)
            if types is None:
                bad = [n for n, entry in enumerate(entries) if entry.get(key) is None]
            else:
                bad = [n for n, entry in enumerate(entries) if type(entry.get(key)) not in types]
            names = [_entry(kind, entries[n], n) for n in bad]
            message = f"{{n}} entries have no usable '{key}', without which mmdet stops"
            self.named("error", f"{kind}-fields", names, message, _EXPORT)

    def boxes(
        self, annotations: list[dict[str, Any]], image_ids: dict[Any, int], table: Table
    ) -> None:
        """Check the boxes one kind of defect after the other; each box is counted once."""
        table.boxes = len(annotations)
        keys = ("id", "image_id", "category_id", "bbox", "area")
        self._fields(annotations, "annotation", (*keys, *(("iscrowd",) if self.evaluated else ())))
        doubled = _doubled(a["id"] for a in annotations if isinstance(a.get("id"), _ID))
        self.named(
            "error",
            "annotation-id-duplicate",
            [str(key) for key in doubled],
            "{n} annotation ids are used more than once, which mmdet refuses",
            "Give every annotation an id of its own.",
        )
        good = [n for n, a in enumerate(annotations) if _is_box(a.get("bbox"))]
        malformed = [
            n
            for n in sorted(set(range(len(annotations))) - set(good))
            if annotations[n].get("bbox") is not None  # its absence was said above
        ]
        names = [_entry("annotation", annotations[n], n) for n in malformed]
        message = "{n} boxes are not four numbers, at which mmdet stops"
        self.named("error", "boxes-malformed", names, message, _FIX_BOXES)

        rows = [annotations[n] for n in good]
        box = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        owner = np.array([_index(image_ids, row.get("image_id")) for row in rows], dtype=np.int64)
        places = {key: n for n, (key, _) in reversed(list(enumerate(table.categories)))}
        category = np.array([_index(places, row.get("category_id")) for row in rows], np.int64)
        area = np.array([_number(row.get("area")) for row in rows], dtype=np.float64)
        ignored = np.array([bool(row.get("ignore")) for row in rows], dtype=bool)

        def name(n: int) -> str:
            file = table.files[owner[n]] if owner[n] >= 0 else "no image"
            values = ", ".join(f"{value:g}" for value in box[n])
            return f"{file} (annotation {rows[n].get('id')}: [{values}])"

        usable = self._defects(box, owner, category, area, ignored, table, name)
        self._meaning(box, owner, table)
        table.owner, table.category = owner[usable], category[usable]
        self._empty_images(table)

    def _defects(
        self,
        box: npt.NDArray[np.float64],
        owner: npt.NDArray[np.int64],
        category: npt.NDArray[np.int64],
        area: npt.NDArray[np.float64],
        ignored: npt.NDArray[np.bool_],
        table: Table,
        name: Callable[[int], str],
    ) -> npt.NDArray[np.bool_]:
        """Report each kind of unusable box; returns a mask of those that mmdet trains on."""
        sizes = table.sizes[owner] if len(table.sizes) else np.ones((len(box), 2))
        with np.errstate(invalid="ignore", over="ignore"):
            x, y, w, h = box.T
            width, height = sizes.T
            seen_w = np.minimum(x + w, width) - np.maximum(x, 0)
            seen_h = np.minimum(y + h, height) - np.maximum(y, 0)
            beyond = (x < -1) | (y < -1) | (x + w > width + 1) | (y + h > height + 1)
            # Written so that NaN counts.
            absurd = ~(np.abs(box).max(axis=1, initial=0.0) < MOST_PIXELS)
        image = "belong to an image id that is not in the file"
        kinds: list[tuple[str, npt.NDArray[np.bool_], str, str]] = [
            ("image-id-unknown", owner < 0, image, "Remove these annotations or add their images."),
            (
                "category-id-unknown",
                category < 0,
                "have a category id that is not in the file",
                "Add the missing categories to the file.",
            ),
            ("boxes-not-finite", absurd, "have NaN, infinite or absurd coordinates", _FIX_BOXES),
            ("boxes-negative", (w < 0) | (h < 0), "have a negative width or height", _FIX_BOXES),
            ("boxes-empty", (w < 1) | (h < 1), "are less than a pixel wide or high", _FIX_BOXES),
            (
                "boxes-outside",
                (seen_w <= 0) | (seen_h <= 0),
                "lie outside their picture",
                _FIX_BOXES,
            ),
            (
                "area-not-positive",
                ~(area > 0),
                "have an area of zero or less",
                "Set 'area' to the object's area in px.",
            ),
        ]
        left: npt.NDArray[np.bool_] = ~ignored
        for check, wrong, text, advice in kinds:
            found = np.flatnonzero(left & wrong)
            names = [name(int(n)) for n in found[:MOST_NAMES]]
            message = f"{{n}} boxes {text} and {self._fate(check)}"
            self.add("warning", check, names, message, advice, len(found))
            left = left & ~wrong
        found = np.flatnonzero(left & beyond)
        names = [name(int(n)) for n in found[:MOST_NAMES]]
        message = "{n} boxes reach more than a pixel beyond their picture"
        self.add("note", "boxes-beyond", names, message, "", len(found))
        return left

    def _fate(self, check: str) -> str:
        """What becomes of a box with a defect."""
        if not self.evaluated or check.endswith("-unknown"):
            return "are left out"
        if check == "area-not-positive":
            return "count among COCO's small objects"
        return "count as objects that are never found, which lowers AP"

    def _meaning(
        self,
        box: npt.NDArray[np.float64],
        owner: npt.NDArray[np.int64],
        table: Table,
    ) -> None:
        """Coordinates that are no [x, y, width, height] in px."""
        known = (owner >= 0) & np.isfinite(box).all(axis=1)
        if not known.any() or not len(table.sizes):
            return
        values, sizes = box[known], table.sizes[owner[known]]
        if len(values) and values.max() <= 1.5 and values.min() >= 0:
            self.add(
                "error",
                "boxes-fractions",
                (),
                "all boxes look like fractions of the picture's size",
                "COCO's boxes are [x, y, width, height] in px: multiply by the picture's size.",
                1,
            )
            return
        x, y, w, h = values.T
        corners = (w > x) & (h > y) & (w <= sizes[:, 0] + 1) & (h <= sizes[:, 1] + 1)
        beyond = (x + w > sizes[:, 0] + 1) | (y + h > sizes[:, 1] + 1)
        if len(values) >= 10 and corners.mean() > 0.95 and beyond.mean() > 0.3:
            self.add(
                "error",
                "boxes-corners",
                (),
                "the boxes look like corners [x1, y1, x2, y2]",
                "COCO's boxes are [x, y, width, height]: convert them.",
                1,
            )

    def _empty_images(self, table: Table) -> None:
        filled = np.zeros(len(table.files), dtype=bool)
        filled[table.owner] = True
        names = [table.files[n] for n in np.flatnonzero(~filled)]
        if table.files and not filled.any():
            message = "not one of the {n} images has a usable box, so nothing can be learned"
            advice = "Look at the other findings, or export with annotations."
            self.add("error", "no-boxes", (), message, advice, len(names))
        else:
            message = "{n} images have no usable box: background, unless the config filters them"
            self.named("note", "images-without-boxes", names, message, "")


_EXPORT = "Export the annotations again in COCO format (object detection)."
_SIZES = "Set width and height of every image to its size in px."
_FIX_BOXES = (
    "Correct or remove these boxes in the labelling tool: COCO's are [x, y, width, height] in px."
)


def _is_box(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 4
        and type(value[0]) in _NUMBERS
        and type(value[1]) in _NUMBERS
        and type(value[2]) in _NUMBERS
        and type(value[3]) in _NUMBERS
    )


def _index(table: dict[Any, int], key: Any) -> int:
    return table.get(key, -1) if type(key) in _ID else -1


def _number(value: Any) -> float:
    return float(value) if type(value) in _NUMBERS else 0.0


def _entry(kind: str, entry: dict[str, Any], position: int) -> str:
    key = entry.get("id")
    what = f"{kind} {key}" if isinstance(key, _ID) else f"{kind} at position {position}"
    return f"{what} ({entry['file_name']})" if isinstance(entry.get("file_name"), str) else what


def _doubled(values: Any) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
