"""What a detector gets wrong: mmdet's confusion matrix and COCO error analysis, in files.

Both are counted by the programs that mmdet ships with its package; drawn, checked and written here.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import mmdet
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.utils import ProgressBar

from .predictions import coco_results, in_order, read_coco_results, read_predictions

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of a backend without windows)


def mmdet_tool(name: str) -> ModuleType:
    """A program of mmdet's tools/analysis_tools as a module, from its wheel or its checkout.

    Raises:
        FileNotFoundError: If this mmdet came without it.
    """
    package = Path(mmdet.__file__).parent
    for folder in (package / ".mim", package.parent):
        file = folder / "tools" / "analysis_tools" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"mmdet_tools_{name}", file)
        if file.is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise FileNotFoundError(f"this mmdet has no tools/analysis_tools/{name}.py: install its wheel")


def confusion_matrix(
    dataset: Any, predictions_file: str | Path, threshold: float = 0.3, iou: float = 0.5
) -> np.ndarray:
    """Count which class was predicted where which one was annotated, by mmdet's program.

    A prediction counts for every object that it overlaps enough, so rows can sum to more than the
    number of objects.

    Args:
        dataset: A data set of mmdet.
        predictions_file: As :func:`read_predictions` reads it.
        threshold: Predictions below this score are left out.
        iou: The overlap from which a prediction is one of an object.

    Returns:
        Counts (C + 1, C + 1): rows are annotated, columns predicted; last is the background, that
        is objects that were missed (column) and predictions of nothing (row).

    Raises:
        FileNotFoundError, ValueError: If the predictions are missing or of other images.
    """
    predictions = read_predictions(predictions_file)
    ids = [dataset.get_data_info(index)["img_id"] for index in range(len(dataset))]
    ordered = in_order(predictions, ids)
    tool = mmdet_tool("confusion_matrix")
    # Its bar would fill the output with a line per image.
    tool.ProgressBar = partial(ProgressBar, file=io.StringIO())  # type: ignore[attr-defined]
    counts: np.ndarray = tool.calculate_confusion_matrix(dataset, ordered, threshold, None, iou)
    return counts.astype(np.int64)


def write_confusion_matrix(
    counts: np.ndarray, classes: Sequence[str], out: Path, title: str
) -> None:
    """Write ``confusion_matrix.png`` (shares of each row) and ``.csv`` (counts) into a folder.

    Args:
        counts: As :func:`confusion_matrix` returns them.
        classes: Names of the C classes.
        out: The folder; it is made.
        title: The heading.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = [*classes, "background"]
    with (out / "confusion_matrix.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["annotated \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, counts.tolist()))
    total = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(total, 1)
    size = len(names)
    side = 2.8 + (0.72 if size <= 20 else 0.36) * size
    figure, axes = plt.subplots(figsize=(side + 0.6, side), dpi=110)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format="{x:.0%}")
    axes.set_xticks(range(size), names, rotation=45 if size <= 20 else 90, ha="right" if size <= 20 else "center")
    axes.set_yticks(range(size), [f"{name} ({row})" for name, row in zip(names, total[:, 0])])
    axes.set_xlabel("predicted (background: missed)")
    axes.set_ylabel("annotated, number of pairs (background: nothing there)")
    axes.set_title(title)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="minor", length=0)
    for row, column in zip(*np.nonzero(counts)):
        share = shares[row, column]
        text = f"{share:.0%}\n{counts[row, column]}" if size <= 20 else f"{100 * share:.0f}"
        colour = "white" if share > 0.55 else "#222222"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    figure.tight_layout()
    figure.savefig(out / "confusion_matrix.png")
    plt.close(figure)


#: The curves of COCO's error analysis, in the order in which each allows for more.
CURVES = (
    ("C75", "IoU at least 0.75"),
    ("C50", "IoU at least 0.5"),
    ("Loc", "IoU at least 0.1: places forgiven"),
    ("Sim", "and similar classes (same supercategory) forgiven"),
    ("Oth", "and all confusions of classes forgiven"),
    ("BG", "and boxes of nothing forgiven"),
    ("FN", "and missed objects forgiven"),
)


def error_analysis(
    annotations: str | Path,
    results: str | Path,
    out: Path,
    classes: Sequence[str] | None = None,
    extra_plots: bool = False,
    overall: bool = False,
) -> dict[str, float]:
    """COCO's error analysis by mmdet's program: AP as one kind of error after another is forgiven.

    Args:
        annotations: The annotation file, in COCO's form.
        results: The pickle of ``tools/test.py --out``, or JSON in COCO's results form.
        out: Folder for mmdet's plots, per class and of all, in ``out/bbox``; it is made.
        classes: Class names in the order of the labels; needed for a pickle.
        extra_plots: Also the plots by area.
        overall: Plot all classes together only.

    Returns:
        AP of each of :data:`CURVES`, over all classes and sizes.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is of another form, there is no prediction, or the two do not fit.
    """
    if not Path(annotations).is_file():
        raise FileNotFoundError(f"annotation file {annotations} does not exist")
    content = json.loads(Path(annotations).read_text(encoding="utf-8"))
    found = _coco_results_of(content, results, classes)
    known = {image["id"] for image in content["images"]}
    strangers = {item["image_id"] for item in found} - known
    if not found or strangers:
        reason = f"{len(strangers)} images of it are not in" if strangers else "it is empty: check"
        raise ValueError(f"{results} does not fit {annotations}: {reason} {annotations}")
    _complete(content)
    tool = mmdet_tool("coco_error_analysis")
    # It would start 48 processes, each with a copy of everything.
    tool.Pool = _fewer_processes  # type: ignore[attr-defined]
    curves: list[np.ndarray] = []
    plot = tool.makeplot

    def keep(recalls: Any, precisions: np.ndarray, folder: str, name: str, kind: str) -> None:
        curves.append(precisions)
        if not overall or name == "allclass":
            plot(recalls, precisions, folder, name, kind)

    tool.makeplot = keep  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        files = [str(Path(folder) / name) for name in ("results.json", "annotations.json")]
        for file, value in zip(files, (found, content)):
            Path(file).write_text(json.dumps(value), encoding="utf-8")
        tool.analyze_results(*files, ["bbox"], str(out), extra_plots, [1024, 9216, 10**10])
    # The last plot is that of all classes; its third axis from the end is the area, 0 is all.
    forgiven = curves[-1][..., 0, 0]
    return {name: float(curve.mean()) for (name, _), curve in zip(CURVES, forgiven)}


def _coco_results_of(
    content: dict[str, Any], results: str | Path, classes: Sequence[str] | None
) -> list[dict[str, Any]]:
    if str(results).endswith(".json"):
        return read_coco_results(results)
    ids = {category["name"]: category["id"] for category in content["categories"]}
    names = list(classes) if classes is not None else list(ids)
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise ValueError(f"class {unknown[0]!r} is not in the annotation file's categories")
    return coco_results(read_predictions(results), [ids[name] for name in names])


def _complete(content: dict[str, Any]) -> None:
    """Add what the program and pycocotools expect of COCO's own files and few others have."""
    content.setdefault("info", {})
    for category in content["categories"]:
        # Without supercategories no class is similar to another one.
        category.setdefault("supercategory", category["name"])
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])


def _fewer_processes(processes: int) -> ThreadPool:
    return ThreadPool(min(processes, os.cpu_count() or 1))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that pycocotools and the programs print for every class."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def annotation_file(dataset: Any) -> str:
    """The annotation file of a COCO data set, looked for below wrappers.

    Raises:
        ValueError: If the data set is of another kind.
    """
    inner = dataset
    while hasattr(inner, "dataset"):
        inner = inner.dataset
    if not isinstance(inner, CocoDataset):
        raise ValueError("error analysis needs a CocoDataset: convert the data set to COCO's form")
    file: str = inner.ann_file
    return file
