"""The order of an examination: annotation files, classes, picture files, what sets share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..annotation_file import forget_annotations, read_annotations
from . import files
from .annotations import check_annotations
from .report import Finding, Report, Summary
from .sets import DataSet, check_classes, check_evaluators, check_model, sets_of_config

_FULL = "python -m mmdet_mobileformer doctor"


def examine(
    sets: Sequence[DataSet],
    cfg: Any = None,
    quick: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Examine data sets.

    Args:
        sets: The data sets; their tables are filled.
        cfg: The config that they are of: its heads and evaluators are compared with them.
        quick: Look for the names of all picture files but open a sample of them only: seconds for
            a set of COCO's size. Otherwise every picture is decoded.
        progress: Called with a data set's name, the pictures done and their number.

    Returns:
        The report. Defects of the data are findings, never exceptions.
    """
    report = Report(quick=quick)
    collecting = gc.isenabled()
    gc.disable()  # millions of objects are alive and none of them is garbage: twice as fast
    try:
        for data_set in sets:
            _read(data_set, report)
        forget_annotations()
    finally:
        if collecting:
            gc.enable()
    readable = [data_set for data_set in sets if data_set.table.files]
    for data_set in readable:
        report.add(check_classes(data_set))
    if cfg is not None:
        report.add(check_model(cfg, readable))
        report.add(check_evaluators(cfg, sets))

    sizes: dict[str, dict[str, int]] = {}
    pixels: dict[Path, dict[str, str]] = {}
    for data_set in readable:
        own = sizes[data_set.name] = files.file_sizes(data_set)
        report.add(files.check_presence(data_set, own))
        if quick:
            report.add(files.check_sample(data_set, own))
            continue
        name = data_set.name
        tell = progress and (lambda done, of, name=name: progress(name, done, of))  # type: ignore[misc]
        found, hashes = files.check_all(data_set, own, tell)
        report.add(found)
        pixels.setdefault(data_set.folder, {}).update(hashes)
    for train in readable:
        for other in readable:
            if train.split == "train" and other.split != "train":
                report.add(files.check_overlap(train, other, pixels, sizes))
    return report


def _read(data_set: DataSet, report: Report) -> None:
    """Read and check one annotation file."""
    found: list[Finding] = []
    try:
        content = read_annotations(data_set.ann_file)
    except (FileNotFoundError, ValueError) as error:
        message = str(error).partition(": ")
        advice = message[2][:1].upper() + message[2][1:] + "."
        found = [Finding("error", "annotation-file", data_set.name, message[0], advice)]
    else:
        data_set.table, found = check_annotations(
            content, data_set.name, evaluated=data_set.split != "train"
        )
    report.add(found)
    table = data_set.table
    report.sets.append(
        Summary(
            data_set.name,
            str(data_set.ann_file),
            str(data_set.folder),
            len(table.files),
            table.boxes,
            table.names,
        )
    )


def check_before_training(
    cfg: Any, strict: bool = False, say: Callable[[str], None] = print
) -> Report:
    """The quick part before epoch 0: say what will be left out, refuse what cannot train.

    Args:
        cfg: The config of the run, with its final data roots and classes.
        strict: Refuse also what training would leave out (`--strict-data`).
        say: Takes a line for every finding that is no refusal and no mere note.

    Returns:
        The report.

    Raises:
        ValueError: One sentence that names the worst finding, its remedy and how to see the rest.
    """
    sets, notes = sets_of_config(cfg, ("train", "val"))
    report = examine(sets, cfg, quick=True)
    report.add(notes)
    blocking = report.blocking(strict)
    if not blocking:
        for finding in report.of("warning"):
            say(f"Data: {finding.where}: {finding}")
        return report
    first = blocking[0]
    rest = len(blocking) - 1
    more = f", and {rest} more finding{'s' * (rest > 1)}" if rest else ""
    flags = "--skip-doctor goes on all the same"
    if first.level == "warning":
        flags = "without --strict-data these would be left out"
    advice = f" ({first.advice.rstrip('.')})" if first.advice else ""
    config = getattr(cfg, "filename", None) or "CONFIG"
    raise ValueError(
        f"the data cannot be trained on: {first.where}: {first}{advice}{more}; see all by "
        f"`{_FULL} {config}` with the flags of this run; {flags}"
    )
