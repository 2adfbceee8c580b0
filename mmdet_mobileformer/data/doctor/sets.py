"""Which data sets a config, or a folder, is about; and checks that concern several of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..classes import config_classes, head_class_counts, is_coco
from ..layouts import Layout
from ..redirect import data_sets_of, dicts_of, join_path, sections_of, strings_of
from .annotations import Table
from .report import Finding

_SPLITS = ("train", "val", "test")


@dataclass
class DataSet:
    """One data set of a config or folder.

    Attributes:
        name: As the report calls it: the data loaders that read it.
        split: train, val or test.
        ann_file: The annotation file.
        folder: What file names are relative to.
        classes: The config's class names in the order of its labels; None: whatever the file has.
        ignores_orientation: Whether pictures are read without EXIF's rotation.
        table: Filled when the annotation file was read.
    """

    name: str
    split: str
    ann_file: Path
    folder: Path
    classes: tuple[str, ...] | None = None
    ignores_orientation: bool = False
    table: Table = field(default_factory=Table)

    def path(self, file_name: str) -> Path:
        """Where a picture lies."""
        return self.folder / file_name


def sets_of_config(
    cfg: Any, splits: Sequence[str] = _SPLITS
) -> tuple[list[DataSet], list[Finding]]:
    """The COCO-format data sets of a config's data loaders, each once.

    Args:
        cfg: mmengine's Config or a dict, with its final data roots.
        splits: Which loaders to look at.

    Returns:
        The data sets, and notes about those that cannot be examined.
    """
    found: dict[tuple[Any, ...], DataSet] = {}
    findings = []
    for section_name, section in sections_of(cfg, ("dataloader",)):
        split = next((s for s in splits if section_name.startswith(s)), None)
        if split is None:
            continue
        for leaf in data_sets_of(section):
            ann_file = leaf.get("ann_file")
            remote = any("://" in str(leaf.get(key) or "") for key in ("data_root", "ann_file"))
            if not isinstance(ann_file, str) or not ann_file or remote or not is_coco(leaf):
                message = f"{leaf.get('type')} is no COCO file on this disk and is not examined"
                findings.append(Finding("note", "not-examined", section_name, message))
                continue
            root = leaf.get("data_root") or ""
            prefix = leaf.get("data_prefix") or {}
            folder = prefix.get("img") or "" if isinstance(prefix, dict) else ""
            data_set = DataSet(
                section_name,
                split,
                Path(join_path(root, ann_file)).expanduser(),
                Path(join_path(root, folder)).expanduser(),
                config_classes(leaf),
                _ignores_orientation(leaf),
            )
            key = (data_set.ann_file, data_set.folder, split == "train", data_set.classes)
            if key in found and section_name not in found[key].name.split(", "):
                found[key].name += f", {section_name}"
            found.setdefault(key, data_set)
    return list(found.values()), findings


def sets_of_layout(layout: Layout) -> list[DataSet]:
    """The data sets of a folder without a config."""
    return [
        DataSet(name, name, split.ann_file, split.folder) for name, split in layout.splits.items()
    ]


def _ignores_orientation(leaf: Any) -> bool:
    loaders = [t for t in leaf.get("pipeline") or [] if "LoadImage" in str(t.get("type"))]
    kinds = [str(loader.get("color_type", "color")) for loader in loaders]
    return any("ignore_orientation" in kind or kind == "unchanged" for kind in kinds)


def check_classes(data_set: DataSet) -> list[Finding]:
    """Compare the config's classes with the file's, the way mmdet assigns labels.

    CocoDataset numbers the categories that the config names in the order of the *file*, so a
    class that is missing or stands elsewhere shifts the labels of others without a word.
    """
    table, where, classes = data_set.table, data_set.name, data_set.classes
    used = np.bincount(table.category, minlength=len(table.categories))
    if classes is None:
        empty = [name for name, n in zip(table.names, used) if not n]
        message = f"{len(empty):,} categories have no box"
        note = Finding("note", "class-unused", where, message, "", len(empty), empty)
        return [note] if empty and any(used) else []
    findings = []
    taken = [name for name in table.names if name in classes]
    absent = [name for name in classes if name not in taken]
    auto = "Take the classes from the file with --classes auto, or set metainfo and num_classes."
    if not taken:
        message = (
            f"none of the config's {len(classes)} classes ({_some(classes)}) is in the annotation "
            f"file, which has {_some(table.names)}{_similar(classes, table.names)}"
        )
        return [Finding("error", "classes-differ", where, message, auto)]
    shifted = [name for label, name in enumerate(taken) if classes.index(name) != label]
    if shifted:
        first = shifted[0]
        message = (
            f"the config's classes stand in another order than the file's, or some are missing "
            f"there: mmdet would give {first!r} the label of {classes[taken.index(first)]!r}"
        )
        advice = f"List the classes in the file's order and only those it has. {auto}"
        findings.append(
            Finding("error", "classes-order", where, message, advice, len(shifted), shifted)
        )
    elif absent:
        message = f"{len(absent)} classes of the config are not in the file{_similar(absent, table.names)}"
        findings.append(
            Finding("warning", "classes-absent", where, message, auto, len(absent), absent)
        )
    left_out = {name: int(n) for name, n in zip(table.names, used) if name not in classes and n}
    if left_out:
        message = (
            f"{len(left_out)} categories with {sum(left_out.values()):,} boxes are not among the "
            "config's classes and are left out"
        )
        names = list(left_out)
        findings.append(Finding("note", "classes-left-out", where, message, "", len(names), names))
    unused = [name for name, n in zip(table.names, used) if name in classes and not n]
    if unused and data_set.split == "train" and len(unused) < len(taken):
        message = f"{len(unused)} classes have no box to learn from"
        advice = "Add pictures of these classes, or leave the classes out."
        findings.append(
            Finding("warning", "class-unused", where, message, advice, len(unused), unused)
        )
    return findings


def check_model(cfg: Any, sets: Sequence[DataSet]) -> list[Finding]:
    """Compare the class counts of the model's heads, and its queries, with the data sets."""
    findings = []
    model = cfg.get("model") or {}
    places = head_class_counts(model)
    heads = {place: n for place, n in places.items() if "head" in place.rsplit(".", 1)[-1]}
    for data_set in sets:
        count = len(data_set.classes) if data_set.classes is not None else None
        wrong = {place: n for place, n in heads.items() if n != count}
        if count is not None and wrong:
            place, number = next(iter(wrong.items()))
            message = f"{place}.num_classes is {number}, but {data_set.name} has {count} classes"
            advice = f"Set num_classes={count} in every head, or use --classes auto."
            findings.append(Finding("error", "num-classes", data_set.name, message, advice))
        queries = (model.get("bbox_head") or {}) if isinstance(model, dict) else {}
        queries = queries.get("num_queries") if isinstance(queries, dict) else None
        queries = queries or model.get("num_queries")
        if isinstance(queries, int) and data_set.split == "train" and len(data_set.table.owner):
            per_image = np.bincount(data_set.table.owner)
            many = np.flatnonzero(per_image > queries)
            if len(many):
                names = [f"{data_set.table.files[n]} ({per_image[n]})" for n in many]
                message = (
                    f"{len(many)} images have more boxes than the model has queries ({queries})"
                )
                findings.append(
                    Finding(
                        "warning",
                        "more-boxes-than-queries",
                        data_set.name,
                        message,
                        "Raise num_queries: the rest of the boxes is not learned.",
                        len(many),
                        names,
                    )
                )
    return findings


def check_evaluators(cfg: Any, sets: Sequence[DataSet]) -> list[Finding]:
    """An evaluator must read the annotation file of its data set, or one with the same images."""
    findings = []
    for name, section in sections_of(cfg, ("evaluator",)):
        split = name[: -len("_evaluator")]
        own = [d for d in sets if f"{split}_dataloader" in d.name.split(", ")]
        files = [f for entry in dicts_of(section) for f in strings_of(entry.get("ann_file"))]
        for file in files:
            if own and not any(_same(file, data_set.ann_file) for data_set in own):
                message = f"{name} reads {file}, but {own[0].name} reads {own[0].ann_file}"
                advice = "Give evaluator and data set the same ann_file."
                findings.append(Finding("warning", "evaluator-file", own[0].name, message, advice))
    return findings


def _same(a: str | Path, b: str | Path) -> bool:
    return os.path.abspath(os.path.expanduser(a)) == os.path.abspath(os.path.expanduser(b))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "") if names else "none"


def _similar(wanted: Sequence[str], there: Sequence[str]) -> str:
    """Names that differ in case or spaces only: the usual reason."""
    plain = {name.strip().lower(): name for name in there}
    pairs = [
        (name, plain[name.strip().lower()]) for name in wanted if name.strip().lower() in plain
    ]
    return f" ({pairs[0][0]!r} is spelled {pairs[0][1]!r} there)" if pairs else ""
