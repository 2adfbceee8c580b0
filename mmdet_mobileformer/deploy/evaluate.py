"""COCO AP, file size and time of exported files, through the torch-free runtime."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from ..runtime.detector import Detector
from ..runtime.picture import network_input, read_picture
from ..runtime.results import CocoResults, read_annotations


def annotated_pictures(folder: str | Path, annotations: str | Path) -> list[tuple[Path, str]]:
    """The pictures of an annotation file, as (file, name in the annotations).

    Raises:
        FileNotFoundError: If the annotation file or a picture is missing.
        ValueError: If it is no annotation file, or names no picture.
    """
    names = [str(image["file_name"]) for image in read_annotations(annotations)["images"]]
    if not names:
        raise ValueError(f"{annotations} names no picture")
    for name in names:
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(
                f"{annotations} names {name}, which is not below {folder}: give its folder"
            )
    return [(Path(folder) / name, name) for name in names]


def coco_ap(
    detector: Detector, pictures: Sequence[tuple[Path, str]], annotations: str | Path
) -> float:
    """COCO AP of boxes, unrounded.

    Args:
        detector: The exported file.
        pictures: From :func:`annotated_pictures`.
        annotations: The COCO annotation file.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = CocoResults(detector.info.classes, annotations)
    for file, name in pictures:
        picture = read_picture(file)
        found = detector.predict(picture, threshold=0.0)
        results.add(name, picture.shape[1], picture.shape[0], found)
    # pycocotools prints what nobody asked for.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(results.results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def interleaved_times(
    detectors: Sequence[Detector], picture: Path, repeats: int = 15
) -> list[float]:
    """Median milliseconds of the network alone on one picture, the detectors taking turns.

    Taking turns, a busy machine slows all of them alike.
    """
    array = read_picture(picture)
    times: list[list[float]] = [[] for _ in detectors]
    for turn in range(repeats + 1):
        for detector, list_ in zip(detectors, times):
            image = network_input(array, detector.info)[None]
            start = time.perf_counter()
            detector.engine.run(image)
            if turn:  # the first run of a size allocates
                list_.append(time.perf_counter() - start)
    return [1000 * statistics.median(list_) for list_ in times]
