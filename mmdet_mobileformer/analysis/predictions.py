"""Predictions in a file: what tools/test.py --out wrote, or a list in COCO's results form."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

#: What a pickle of predictions may name: tensors, arrays and plain data; anything else could run code.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            # torch's own would load the storage without its checks.
            return lambda data: torch.load(io.BytesIO(data), weights_only=True)
        if (module, name) == ("_codecs", "encode"):
            return _latin1  # how pickle 2 keeps bytes
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode(encoding)


def read_predictions(file: str | Path) -> list[dict[str, Any]]:
    """Read the pickle that ``tools/test.py --out`` wrote, without running code from it.

    Returns:
        Per image ``img_id`` and ``pred_instances``: tensors ``bboxes`` (M, 4) in pixels of the
        original image, ``scores`` (M,), ``labels`` (M,).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"predictions {file} do not exist: write them by tools/test.py --out")
    advice = "give the file that tools/test.py --out wrote"
    try:
        with path.open("rb") as stream:
            content = _Unpickler(stream).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} is no pickle of predictions ({error}): {advice}") from error
    except Exception as error:  # unpickling garbage raises nearly anything
        raise ValueError(f"{file} is no pickle or is damaged: {advice}") from error
    if not isinstance(content, list) or not all(_is_prediction(item) for item in content):
        raise ValueError(f"{file} holds no list of boxes, scores and labels per image: {advice}")
    return content


def _is_prediction(item: Any) -> bool:
    found = item.get("pred_instances") if isinstance(item, dict) else None
    return (
        isinstance(found, dict)
        and "img_id" in item
        and all(isinstance(found.get(key), torch.Tensor) for key in ("bboxes", "scores", "labels"))
    )


def in_order(predictions: Sequence[dict[str, Any]], image_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The predictions in the order of a data set's images.

    Raises:
        ValueError: If an image has none, or predictions are of other images.
    """
    table = {item["img_id"]: item for item in predictions}
    missing = [image for image in image_ids if image not in table]
    if missing or len(table) != len(set(image_ids)):
        raise ValueError(
            f"the predictions are of {len(table)} images and the data set has {len(image_ids)}, "
            f"{len(missing)} of them without: predict with the same config and data"
        )
    return [table[image] for image in image_ids]


def coco_results(
    predictions: Sequence[dict[str, Any]], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """COCO's results form: image_id, category_id, bbox as [x, y, width, height], score.

    Args:
        predictions: As :func:`read_predictions` returns them.
        category_ids: The id in the annotation file of each label.

    Raises:
        ValueError: If a label has no id.
    """
    results = []
    for item in predictions:
        found = item["pred_instances"]
        for box, score, label in zip(
            found["bboxes"].tolist(), found["scores"].tolist(), found["labels"].tolist()
        ):
            if not 0 <= label < len(category_ids):
                raise ValueError(f"label {label} is none of the data set's {len(category_ids)} classes")
            x1, y1, x2, y2 = box
            results.append(
                dict(
                    image_id=item["img_id"],
                    category_id=category_ids[label],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=score,
                )
            )
    return results


def read_coco_results(file: str | Path) -> list[dict[str, Any]]:
    """Read a JSON list in COCO's results form.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"results {file} do not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    keys = ("image_id", "category_id", "bbox", "score")
    if not isinstance(content, list) or not all(
        isinstance(item, dict) and all(key in item for key in keys) for item in content
    ):
        raise ValueError(f"{file} is not in COCO's results form, a list of {', '.join(keys)}")
    return content
