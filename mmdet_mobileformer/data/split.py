"""A validation split for data that has none: the same on every machine, written beside, once (ours).

Pictures that belong together stay together: files of equal content, and the augmented copies that
Roboflow makes of one picture (`name_jpg.rf.HASH.jpg`). Every class that can be in both is in both.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from .pictures import file_problem

#: Folder inside the data root that the two annotation files are written to.
SPLIT_FOLDER = "mobileformer_split"
SHARE = 0.1
#: Where a tenth would be fewer images than this, a fifth is taken, up to this number.
FEWEST = 20


def choose_validation(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], groups: dict[Any, str]
) -> set[Any]:
    """Choose the images of the validation split.

    The order of a hash over group names decides, so neither the order in the file nor the machine
    matters.

    Args:
        images: COCO's images.
        annotations: COCO's annotations.
        groups: Image id to the name of the group that must stay together.

    Returns:
        Image ids: a tenth of the images, more of a small set (up to 20) or to have every class,
        but no more than a fifth, as far as groups allow.
    """
    members = defaultdict(list)
    for image in images:
        members[groups[image["id"]]].append(image["id"])
    classes: dict[str, set[Any]] = {group: set() for group in members}
    for annotation in annotations:
        if annotation.get("image_id") in groups:
            classes[groups[annotation["image_id"]]].add(annotation.get("category_id"))
    order = sorted(members, key=lambda group: hashlib.sha256(group.encode()).digest())
    wanted = max(round(SHARE * len(images)), min(FEWEST, len(images) // 5), 1)

    left: dict[Any, int] = defaultdict(int)  # groups of each class that training still has
    for group in order:
        for category in classes[group]:
            left[category] += 1
    chosen: dict[str, None] = {}

    def take(group: str) -> bool:
        if group in chosen or any(left[category] < 2 for category in classes[group]):
            return False
        chosen[group] = None
        for category in classes[group]:
            left[category] -= 1
        return True

    def count() -> int:
        return sum(len(members[group]) for group in chosen)

    # One picture of each class first, the rarest class first, then by the hash alone.
    for category in sorted(left, key=lambda key: (left[key], str(key))):
        if count() >= max(wanted, len(images) // 5):
            break
        if not any(category in classes[group] for group in chosen):
            any(take(group) for group in order if category in classes[group])
    size = count()
    for group in order:
        if size < wanted and size + len(members[group]) <= wanted and take(group):
            size += len(members[group])
    if not chosen and len(order) > 1:
        chosen[order[0]] = None  # every class stands in one picture only: any picture will do
    return {image for group in chosen for image in members[group]}


def split_off_validation(
    ann_file: Path, folder: Path, root: Path, out_dir: str | Path | None = None
) -> dict[str, Path]:
    """Write the annotation files of a training and a validation split.

    Nothing is changed or overwritten. A split that is there already is used again.

    Args:
        ann_file: All annotations.
        folder: What file names are relative to.
        root: The data root; the files go to `root/mobileformer_split/`.
        out_dir: Used in place of `root` where that cannot be written to.

    Returns:
        The files of 'train' and 'val'.

    Raises:
        ValueError: Too few images, or the folder holds a split of other annotations.
        OSError: The files cannot be written.
    """
    content = json.loads(ann_file.read_bytes())
    images = [i for i in content["images"] if isinstance(i, dict) and "id" in i]
    for place in [root, Path(out_dir)] if out_dir is not None else [root]:
        done = place / SPLIT_FOLDER
        if done.is_dir():
            _check(done, content, ann_file)
            return {name: done / f"{name}.json" for name in ("train", "val")}
    annotations = [a for a in content.get("annotations") or [] if isinstance(a, dict)]
    # Validation needs every picture, while training can leave a damaged one out.
    whole = [i for i in images if file_problem(folder / str(i.get("file_name"))) is None]
    chosen = choose_validation(whole, annotations, _groups(whole, folder)) if whole else set()
    if len(chosen) in (0, len(images)):
        raise ValueError(
            f"{ann_file} has no validation split and too few pictures ({len(whole)}) to take one "
            "from: annotate more, or give an annotation file with 'val' in its name"
        )
    texts = _parts(content, chosen)
    place = root / SPLIT_FOLDER
    try:
        _write(place, texts)
    except OSError as error:
        if out_dir is None:
            raise OSError(
                f"the validation split cannot be written to {place} ({error.strerror}): make the "
                "folder writable, or split the data yourself"
            ) from error
        place = Path(out_dir) / SPLIT_FOLDER
        _write(place, texts)
    _check(place, content, ann_file)
    return {name: place / f"{name}.json" for name in ("train", "val")}


def _parts(content: dict[str, Any], chosen: set[Any]) -> dict[str, str]:
    """The text of both annotation files, by name."""

    def part(val: bool) -> str:
        def mine(key: Any) -> bool:
            return (key in chosen) == val

        images = [i for i in content["images"] if isinstance(i, dict) and mine(i.get("id"))]
        annotations = [a for a in content.get("annotations") or [] if isinstance(a, dict)]
        annotations = [a for a in annotations if mine(a.get("image_id"))]
        return json.dumps({**content, "images": images, "annotations": annotations})

    return {"train.json": part(False), "val.json": part(True)}


def _check(place: Path, content: dict[str, Any], source: Path) -> None:
    """Raise ValueError unless a folder holds a split of `content`, whichever images were chosen."""
    try:
        chosen = {image["id"] for image in json.loads((place / "val.json").read_bytes())["images"]}
        texts = _parts(content, chosen)
        same = all((place / name).read_text() == text for name, text in texts.items())
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise ValueError(
            f"{place} is not a split of {source} as it is now (the annotations changed): move the "
            "folder away to split anew"
        )


def _groups(images: list[dict[str, Any]], folder: Path) -> dict[Any, str]:
    """Image id to the name of its group."""
    names = {image["id"]: str(image.get("file_name", image["id"])) for image in images}
    by_size = defaultdict(list)
    for key, name in names.items():
        try:
            by_size[os.path.getsize(folder / name)].append(key)
        except OSError:
            continue
    groups = {key: name.split(".rf.")[0] for key, name in names.items()}
    parents: dict[str, str] = {}

    def top(group: str) -> str:
        while group in parents:
            group = parents[group]
        return group

    for same_size in by_size.values():
        if len(same_size) > 1:
            first: dict[bytes, str] = {}
            for key in same_size:
                digest = hashlib.sha256((folder / names[key]).read_bytes()).digest()
                a, b = sorted((top(first.setdefault(digest, groups[key])), top(groups[key])))
                if a != b:
                    parents[b] = a
    return {key: top(group) for key, group in groups.items()}


def _write(place: Path, texts: dict[str, str]) -> None:
    """Write a folder of files at once, unless another process of this run was faster."""
    partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for name, text in texts.items():
            (partial / name).write_text(text)
        try:
            os.rename(partial, place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
