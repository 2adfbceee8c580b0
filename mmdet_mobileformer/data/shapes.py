"""The embedded data set "shapes": pictures drawn by our own code, annotated in COCO format (ours).

Six classes differ in outline and texture; colours come from one distribution for all of them.
0 to 15 objects lie on a textured background, later ones partly cover earlier ones, and at least
half of every object can be seen. Box, polygon and area are those of the whole shape, covered parts
included, clipped to the picture; sizes are px.

:data:`SHAPES_SHA256` is a hash over decoded pixels and annotations, whatever the PNG encoder does.
The same set comes out on every machine; see :mod:`mmdet_mobileformer.data.shapes_drawing`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mmdet_mobileformer.data.shapes_drawing import CLASSES, Shape, draw_picture

__all__ = [
    "CLASSES",
    "SEED",
    "SHAPES_SHA256",
    "SPLITS",
    "dataset_hash",
    "make_shapes",
    "statistics",
]

SPLITS: Mapping[str, int] = {"train": 2000, "val": 200}
SEED = 20
SHAPES_SHA256 = "26ea18f959da9fd177b2cbd1767df04f8fecd1b241bd5e48bbe40bb1cca8aee0"
"""Hash of the set that ``make_shapes(out_dir)`` makes; scores on it compare as long as it holds."""

_MARKER = "SHA256"


def make_shapes(
    out_dir: str | os.PathLike[str], splits: Mapping[str, int] | None = None, seed: int = SEED
) -> dict[str, Any]:
    """Make the data set, or find that it is there.

    Writes ``annotations/instances_<split>.json``, ``<split>/000001.png`` ... and ``SHA256`` into a
    temporary folder beside ``out_dir`` and renames that when it is complete.

    Args:
        out_dir: The folder to make.
        splits: Pictures per split; :data:`SPLITS` if None.
        seed: Another seed gives another set.

    Returns:
        ``sha256``, ``made`` (False if the set was already there) and ``splits``: the result of
        :func:`statistics` per split.

    Raises:
        ValueError: A split without a plain name, or with less than one picture.
        FileExistsError: ``out_dir`` holds something else; nothing is overwritten.
        RuntimeError: The standard set came out different from :data:`SHAPES_SHA256`.
    """
    splits = dict(SPLITS if splits is None else splits)
    for split, count in splits.items():
        if not split.isidentifier() or split == "annotations" or count < 1:
            raise ValueError(
                f"Split {split!r} with {count} pictures cannot be made: "
                "give a plain name and at least 1 picture."
            )
    out = Path(out_dir).expanduser().resolve()
    standard = splits == dict(SPLITS) and seed == SEED
    recipe = " ".join([f"seed={seed}", *(f"{name}={splits[name]}" for name in splits)])
    if (done := _find(out, splits, recipe, standard)) is not None:
        return done

    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        sha256 = _write(partial, splits, seed)
        if standard and sha256 != SHAPES_SHA256:
            raise RuntimeError(
                f"The shapes drawn on this machine have the hash {sha256} instead of "
                f"{SHAPES_SHA256}, so scores would not compare: please report the numpy "
                f"version ({np.__version__}) and the platform."
            )
        (partial / _MARKER).write_text(f"{sha256}\n{recipe}\n")
        if out.is_dir() and (done := _find(out, splits, recipe, standard)) is not None:
            return done  # another process was faster
        os.replace(partial, out)  # an empty folder may be replaced
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"sha256": sha256, "made": True, "splits": _statistics_of(out, splits)}


def dataset_hash(out_dir: str | os.PathLike[str]) -> str:
    """SHA-256 over all decoded pixels and annotations of a set on disk, whatever its marker says.

    Raises:
        FileNotFoundError: A picture or an annotation file is missing or cannot be decoded.
    """
    out = Path(out_dir)
    files = {f.stem.removeprefix("instances_"): f for f in out.glob("annotations/instances_*.json")}
    if not files:
        raise FileNotFoundError(f"{out} holds no annotations/instances_*.json: make the set first.")
    digest = hashlib.sha256()
    for split in sorted(files):
        content = json.loads(files[split].read_text())
        for image in content["images"]:
            path = out / split / image["file_name"]
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                raise FileNotFoundError(f"{path} is missing or not a picture: make the set again.")
            _hash_picture(digest, split, image["file_name"], picture[..., ::-1])
        _hash_annotations(digest, split, content)
    return digest.hexdigest()


def statistics(content: dict[str, Any]) -> dict[str, Any]:
    """Count what is in a COCO annotation file.

    Returns:
        ``images``, ``objects``, ``empty`` (images without objects), ``most`` (objects in one
        image), ``small`` (share of boxes with both sides under 32 px), ``occluded`` (share with
        less than 95 % to be seen) and ``classes`` (objects per class name).
    """
    annotations = content["annotations"]
    per_image = {image["id"]: 0 for image in content["images"]}
    classes = {category["id"]: 0 for category in content["categories"]}
    for annotation in annotations:
        per_image[annotation["image_id"]] += 1
        classes[annotation["category_id"]] += 1
    total = max(len(annotations), 1)
    return {
        "images": len(per_image),
        "objects": len(annotations),
        "empty": sum(count == 0 for count in per_image.values()),
        "most": max(per_image.values(), default=0),
        "small": sum(max(a["bbox"][2:]) < 32 for a in annotations) / total,
        "occluded": sum(a["visible"] < 0.95 for a in annotations) / total,
        "classes": {c["name"]: classes[c["id"]] for c in content["categories"]},
    }


def _find(
    out: Path, splits: Mapping[str, int], recipe: str, standard: bool
) -> dict[str, Any] | None:
    """The finished set, None where there is nothing yet, an error for anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    marker = out / _MARKER
    sha256, _, found = marker.read_text().partition("\n") if marker.is_file() else ("", "", "")
    if found.strip() != recipe or (standard and sha256 != SHAPES_SHA256):
        raise FileExistsError(
            f"{out} exists and is not the set asked for (its {_MARKER} file is missing or "
            "different): remove it or name another folder."
        )
    for split, count in splits.items():
        complete = len(list((out / split).glob("*.png"))) == count
        if not complete or not (out / "annotations" / f"instances_{split}.json").is_file():
            raise FileExistsError(
                f"{out} is damaged (files of {split!r} are missing): remove it to make it again."
            )
    return {"sha256": sha256, "made": False, "splits": _statistics_of(out, splits)}


def _statistics_of(out: Path, splits: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    files = {split: out / "annotations" / f"instances_{split}.json" for split in splits}
    return {split: statistics(json.loads(file.read_text())) for split, file in files.items()}


def _write(out: Path, splits: Mapping[str, int], seed: int) -> str:
    """Draw and write every split; returns the hash of what was drawn."""
    digest = hashlib.sha256()
    (out / "annotations").mkdir(parents=True)
    for split in sorted(splits):
        (out / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(1, splits[split] + 1):
            picture, shapes = draw_picture(seed, split, index)
            name = f"{index:06d}.png"
            _hash_picture(digest, split, name, picture)
            _, png = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
            (out / split / name).write_bytes(png.tobytes())
            height, width = picture.shape[:2]
            images.append({"id": index, "file_name": name, "width": width, "height": height})
            for annotation in _annotations(shapes, index):
                annotations.append({"id": len(annotations) + 1, **annotation})
        content = {
            "info": {
                "description": f"Generated shapes of mmdet_mobileformer, {split}",
                "version": "1",
                "seed": seed,
            },
            "licenses": [
                {
                    "id": 1,
                    "name": "CC0 1.0: generated pictures",
                    "url": "https://creativecommons.org/publicdomain/zero/1.0/",
                }
            ],
            "categories": [
                {"id": number, "name": name, "supercategory": "shape"}
                for number, name in enumerate(CLASSES, 1)
            ],
            "images": images,
            "annotations": annotations,
        }
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        _hash_annotations(digest, split, content)
    return digest.hexdigest()


def _annotations(shapes: list[Shape], image_id: int) -> Iterator[dict[str, Any]]:
    """COCO annotations without ids; ``visible`` is the share of the shape that can be seen."""
    for shape in shapes:
        (x0, y0), (x1, y1) = shape.polygon.min(axis=0).tolist(), shape.polygon.max(axis=0).tolist()
        x, y = shape.polygon[:, 0].tolist(), shape.polygon[:, 1].tolist()
        twice_area = sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))
        yield {
            "image_id": image_id,
            "category_id": shape.label + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": abs(twice_area) / 2,
            "segmentation": [shape.polygon.ravel().tolist()],
            "iscrowd": 0,
            "visible": round(shape.visible / shape.pixels, 3),
        }


def _hash_picture(digest: Any, split: str, name: str, picture: npt.NDArray[Any]) -> None:
    digest.update(f"{split}/{name} {picture.shape[0]}x{picture.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(picture, dtype=np.uint8).tobytes())


def _hash_annotations(digest: Any, split: str, content: dict[str, Any]) -> None:
    # Numbers are multiples of 1/128 (visible: 1/1000), so they survive JSON exactly.
    digest.update(f"{split} {json.dumps(content, sort_keys=True)}\n".encode())
