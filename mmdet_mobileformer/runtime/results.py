"""COCO's results form, with and without an annotation file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .detector import Detections


class CocoResults:
    """Collects detections as COCO's result files hold them.

    Without annotations images are numbered from 1 in their order and categories from 1 in the
    order of the model's classes; :meth:`images` tells which is which.

    Args:
        classes: The model's class names.
        annotations: A COCO annotation file whose ids of images (by file name) and categories (by
            name) are used.

    Attributes:
        results: The list of COCO's results form.

    Raises:
        FileNotFoundError: If there is no such annotation file.
        ValueError: If it is none, or has none of the classes.
    """

    def __init__(self, classes: Sequence[str], annotations: str | Path | None = None) -> None:
        self.classes = tuple(classes)
        self.results: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._image_ids: dict[str, int] | None = None
        self._categories = {label: label + 1 for label in range(len(self.classes))}
        if annotations is not None:
            data = read_annotations(annotations)
            self._image_ids = {str(image["file_name"]): image["id"] for image in data["images"]}
            ids = {category["name"]: category["id"] for category in data["categories"]}
            names = enumerate(self.classes)
            self._categories = {label: ids[name] for label, name in names if name in ids}
            if not self._categories:
                raise ValueError(
                    f"{annotations} has none of the model's classes ({', '.join(self.classes[:5])} "
                    f"...) but {', '.join(list(ids)[:5])} ..."
                )

    def knows(self, name: str) -> bool:
        """Whether the annotations name this file; always without annotations."""
        return self._image_ids is None or name in self._image_ids

    def add(self, name: str, width: int, height: int, found: Detections) -> None:
        """Add the detections of one image; ``name`` as the annotation file has it."""
        if self._image_ids is None:
            image_id = len(self._images) + 1
        else:
            image_id = self._image_ids[name]
        image = {"id": image_id, "file_name": name, "width": width, "height": height}
        self._images.append(image)
        for box, score, label in zip(found.boxes, found.scores, found.labels):
            if int(label) not in self._categories:
                continue
            x1, y1, x2, y2 = (float(side) for side in box)
            self.results.append(
                {
                    "image_id": image_id,
                    "category_id": self._categories[int(label)],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )

    def images(self) -> dict[str, Any]:
        """Images and categories as a COCO annotation file has them, without annotations."""
        categories = [
            {"id": number, "name": self.classes[label]} for label, number in self._categories.items()
        ]
        return {"images": self._images, "categories": categories, "annotations": []}

    def write(self, folder: Path) -> None:
        """Write ``results.json``, and ``images.json`` which names images and categories."""
        (folder / "results.json").write_text(json.dumps(self.results), encoding="utf-8")
        (folder / "images.json").write_text(json.dumps(self.images()), encoding="utf-8")


def read_annotations(file: str | Path) -> dict[str, Any]:
    """Read a COCO annotation file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"annotation file {file} does not exist")
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
        for key, names in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
            if any(name not in entry for entry in data[key] for name in names):
                raise KeyError(key)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no COCO annotation file with images and categories: {error}"
        ) from error
    found: dict[str, Any] = data
    return found
