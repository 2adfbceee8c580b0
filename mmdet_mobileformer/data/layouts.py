"""A folder of the user's own data: its layout, and a validation split where it has none.

Labelling tools export COCO annotation files under many names:

| tool | annotations | pictures |
|--|--|--|
| COCO | annotations/instances_train2017.json | train2017/ |
| Roboflow | train/_annotations.coco.json | train/ |
| CVAT | annotations/instances_default.json or _train.json | images/, images/train/ |
| Label Studio | result.json | images/ |
| FiftyOne | labels.json | data/ |

So nothing is expected by name: every annotation file in the folder is found, its split is read from
its path, and its pictures are looked for where the names in it exist.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .annotation_file import read_annotations
from .classes import is_coco
from .redirect import check_data, data_sets_of, dicts_of, redirect_data_root, sections_of
from .split import SPLIT_FOLDER, split_off_validation

_DEPTH = 3
_SPLIT_WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "minival", "dev"),
    "test": ("test", "testing", "testdev"),
}
#: Kinds of COCO files that hold boxes beside something else: taken only where no other is there.
_SECOND_CHOICE = ("keypoints", "captions", "panoptic", "stuff", "segmentation", "image_info")
_LOOKED_AT = 50


@dataclass(frozen=True)
class Split:
    """One split: its annotation file, the folder that file names are relative to, its images."""

    ann_file: Path
    folder: Path
    images: int


@dataclass(frozen=True)
class Layout:
    """A folder of data: split name (train, val, test) to its files."""

    root: Path
    splits: dict[str, Split]

    def describe(self) -> str:
        """One line for the user."""
        parts = [
            f"{name}: {split.images:,} images of {_relative(split.ann_file, self.root)} in "
            f"{_relative(split.folder, self.root)}/"
            for name, split in self.splits.items()
        ]
        return f"Data in {self.root}: " + "; ".join(parts)


def use_data_root(
    cfg: Any,
    root: str | Path,
    splits: Sequence[str] = ("train", "val"),
    out_dir: str | Path | None = None,
    say: Callable[[str], None] = print,
    make_validation: bool = True,
) -> Layout | None:
    """--data-root: point a config at a folder, whatever its layout. Changes `cfg` in place.

    If the folder has the config's own layout, the config is only redirected. Else its layout is
    found, a validation split is split off where there is none, and the user is told.

    Args:
        cfg: mmengine's Config or a dict.
        root: The folder.
        splits: The splits that are about to be used.
        out_dir: Where the annotation files of a new validation split go if `root` cannot be
            written to.
        say: Takes the sentences for the user.
        make_validation: Whether a missing validation split is made, which writes files.

    Returns:
        The layout that was found; None if the folder has the config's own.

    Raises:
        FileNotFoundError: The folder is missing or holds no annotation file.
        ValueError: The layout is not clear, or the config cannot be pointed at it.
        OSError: A validation split is needed and cannot be written.
    """
    trial = deepcopy(cfg)
    redirect_data_root(trial, root)
    try:
        check_data(trial, splits)
        redirect_data_root(cfg, root)
        return None
    except FileNotFoundError as own_layout:
        if not Path(root).expanduser().is_dir():
            raise
        try:
            layout = find_layout(root)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{own_layout}; {error}") from error
    # Testing falls back to validation, and must never fall back to training.
    absent = {"val", "test"}.intersection(splits) - layout.splits.keys()
    if make_validation and absent and "val" not in layout.splits:
        layout = with_validation(layout, out_dir)
    say(layout.describe())
    apply_layout(cfg, layout)
    return layout


def find_layout(root: str | Path) -> Layout:
    """Find the annotation files and pictures in a folder.

    Raises:
        FileNotFoundError: No folder, no annotation file in COCO format, or its pictures are missing.
        ValueError: Several annotation files could be meant, or none is for training.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"data root {root} is no folder: give the folder of an export")
    candidates: dict[str, list[Path]] = {}
    for file in _json_files(root):
        if _looks_like_coco(file):
            candidates.setdefault(_split_of(file.relative_to(root)), []).append(file)
    if not candidates:
        raise FileNotFoundError(
            f"no annotation file in COCO format lies in {root}{_other_format(root)}"
        )
    chosen = {split: _best(files, split, root) for split, files in candidates.items()}
    if "train" not in chosen and "" in chosen:
        chosen["train"] = chosen[""]
    chosen.pop("", None)
    if "train" not in chosen:
        names = ", ".join(str(_relative(f, root)) for f in chosen.values())
        raise ValueError(
            f"{root} has no annotation file for training, only {names}: put 'train' into the name "
            "of the file to train on"
        )
    folders = _folders(root)
    splits: dict[str, Split] = {}
    for name in _SPLIT_WORDS:
        if name in chosen:
            pictures = _file_names(chosen[name])
            folder = _picture_folder(root, chosen[name], name, pictures, folders)
            splits[name] = Split(chosen[name], folder, len(pictures))
    return Layout(root, splits)


def with_validation(layout: Layout, out_dir: str | Path | None = None) -> Layout:
    """Split a part off the training split for validation; see :mod:`mmdet_mobileformer.data.split`."""
    train = layout.splits["train"]
    files = split_off_validation(train.ann_file, train.folder, layout.root, out_dir)
    made = {name: Split(file, train.folder, len(_file_names(file))) for name, file in files.items()}
    return Layout(layout.root, {**layout.splits, **made})


def apply_layout(cfg: Any, layout: Layout) -> None:
    """Point the data sets and evaluators of a config at a layout. Changes `cfg` in place.

    Training reads train, validation val; testing reads test if it is there, else val.

    Raises:
        ValueError: The config concatenates data sets, or reads one that is not in COCO format.
    """
    splits = dict(layout.splits)
    splits.setdefault("val", splits["train"])
    splits.setdefault("test", splits["val"])
    splits["tta"] = splits["test"]
    done: set[int] = set()
    for name, section in sections_of(cfg, ("dataloader", "evaluator")):
        split = next((splits[key] for key in splits if name.startswith(key)), None)
        if split is None:
            continue
        if name.endswith("evaluator"):
            for evaluator in dicts_of(section):
                if evaluator.get("ann_file"):
                    evaluator["ann_file"] = str(split.ann_file)
            continue
        leaves = list(data_sets_of(section))
        if len({str(leaf.get("ann_file")) for leaf in leaves}) > 1:
            raise ValueError(
                f"--data-root: {name} joins several data sets, and {layout.root} is one: use a "
                "config with a single data set"
            )
        for leaf in leaves:
            if id(leaf) in done:
                continue
            done.add(id(leaf))
            if not is_coco(leaf):
                raise ValueError(
                    f"--data-root: {name} reads {leaf.get('type')}, and {layout.root} is in COCO "
                    "format: use a config with CocoDataset"
                )
            leaf["data_root"] = str(layout.root)
            leaf["ann_file"] = str(_relative(split.ann_file, layout.root))
            folder = str(_relative(split.folder, layout.root))
            leaf["data_prefix"] = dict(img="" if folder == "." else f"{folder}/")
    if isinstance(cfg.get("data_root"), str):
        cfg["data_root"] = str(layout.root)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders down to a depth, without hidden ones and the splits made here."""
    for folder, folders, files in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        hidden = {f for f in folders if f.startswith(".") or f in (SPLIT_FOLDER, "__MACOSX")}
        folders[:] = [] if depth >= _DEPTH else sorted(set(folders) - hidden)
        yield Path(folder), folders, files


def _json_files(root: Path) -> list[Path]:
    return [
        folder / file
        for folder, _, files in _walk(root)
        for file in sorted(files)
        if file.lower().endswith(".json")
    ]


def _folders(root: Path) -> list[Path]:
    return [folder for folder, _, _ in _walk(root)]


def _looks_like_coco(file: Path) -> bool:
    """Whether the keys of a COCO file stand in it, without parsing what may be 500 MB."""
    try:
        with open(file, "rb") as stream:
            if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return False
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                keys = (b'"images"', b'"annotations"', b'"categories"')
                return all(content.find(key) >= 0 for key in keys)
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _split_of(path: Path) -> str:
    """train, val or test from the words of a path, the last one counting; '' if it says nothing."""
    for part in reversed(path.parts):
        for word in reversed(re.split("[^a-z]+", part.lower())):
            for split, words in _SPLIT_WORDS.items():
                if word in words:
                    return split
    return ""


def _best(files: list[Path], split: str, root: Path) -> Path:
    def rank(file: Path) -> int:
        name = file.name.lower()
        if any(word in name for word in _SECOND_CHOICE):
            return 2
        return 0 if name.startswith(("instances", "_annotations.coco")) else 1

    best = min(map(rank, files))
    candidates = [file for file in files if rank(file) == best]
    if len(candidates) > 1:
        names = ", ".join(str(_relative(file, root)) for file in candidates[:4])
        raise ValueError(
            f"{root} has several annotation files{f' for {split}' if split else ''} ({names}): leave "
            "one per split, with train, val or test in its name"
        )
    return candidates[0]


def _file_names(ann_file: Path) -> list[str]:
    images = read_annotations(ann_file)["images"]
    found = [i.get("file_name") for i in images if isinstance(i, dict)]
    names = [name for name in found if isinstance(name, str)]
    if not names:
        raise ValueError(f"annotation file {ann_file} lists no images: export it again")
    return names


def _picture_folder(
    root: Path, ann_file: Path, split: str, names: list[str], folders: list[Path]
) -> Path:
    """The folder in which most of the names exist; places named after the split come first."""
    tag = re.sub("^(instances|annotations|labels)_", "", ann_file.stem)
    words = dict.fromkeys([tag, split, *_SPLIT_WORDS[split]])
    places = [ann_file.parent]
    for base in (root, root / "images", root / "data", ann_file.parent):
        places += [base / word for word in words]
        places += [base / word / "images" for word in words]
    places += [root / "images", root / "data", ann_file.parent / "images", *folders]
    step = max(1, len(names) // _LOOKED_AT)
    chosen = names[::step][:_LOOKED_AT]
    best, most = ann_file.parent, 0
    for place in dict.fromkeys(places):
        there = sum((place / name).is_file() for name in chosen) if place.is_dir() else 0
        if there > most:
            best, most = place, there
    if 2 * most < len(chosen):
        raise FileNotFoundError(
            f"the pictures of {ann_file} are not in {root} (for example {chosen[0]}): export with "
            "images, or copy them there"
        )
    return best


def _other_format(root: Path) -> str:
    """A hint where the folder is an export in another format."""
    files = [file for _, _, some in _walk(root) for file in some]
    if any(file in ("data.yaml", "dataset.yaml") for file in files):
        return ", which looks like YOLO's layout: export in COCO format instead"
    if "annotations.xml" in files:
        return ", which looks like 'CVAT for images': export as 'COCO 1.0' instead"
    if any(file.endswith(".xml") for file in files):
        return ", which looks like Pascal VOC's layout: export in COCO format instead"
    return ": export in COCO format (object detection) and give that folder"


def _relative(path: Path, root: Path) -> Path:
    """`path` below `root`, or itself if it lies elsewhere."""
    try:
        return path.relative_to(root)
    except ValueError:
        return path.absolute()
