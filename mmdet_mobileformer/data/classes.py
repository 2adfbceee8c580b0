"""--classes: class names and their number from the annotation file into the whole config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .annotation_file import read_annotations
from .redirect import data_sets_of, join_path, sections_of

#: Parts of a model whose num_classes counts something else: ImageNet's classes, foreground, stuff.
_OTHER_COUNTS = ("backbone", "rpn_head", "semantic_head", "data_preprocessor", "teacher")
#: Top-level variables that configs keep their classes in.
_VARIABLES = ("classes", "class_name", "class_names", "CLASSES")


def set_classes(
    cfg: Any, classes: str, splits: Sequence[str] = ("train", "val")
) -> tuple[str, ...]:
    """Put the class names of the annotation file into a config. Changes `cfg` in place.

    Sets metainfo of every data set however deeply nested, num_classes of every head, and the
    config's own variables. Evaluators take the names from their data set. mmdet numbers classes in
    the order of the annotation file, so that order is kept.

    Args:
        cfg: mmengine's Config or a dict, with its final data roots.
        classes: 'auto' for all categories of the training file, or some of them, comma-separated.
        splits: The data loaders whose files are read and must agree; all others get the names too.

    Returns:
        The class names, in the order of the labels.

    Raises:
        FileNotFoundError: An annotation file is missing.
        ValueError: A file is not in COCO format, files disagree, a name is unknown, or the model
            has no num_classes.
    """
    files = _annotation_files(cfg, splits)
    if not files:
        raise ValueError("--classes: the config has no data set in COCO format to take them from")
    first = next(iter(files))
    found = file_classes(first, list(files))
    if classes != "auto":
        wanted = [name.strip() for name in classes.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in found]
        if unknown or not wanted:
            raise ValueError(
                f"--classes {classes}: {', '.join(unknown) or 'no name'} is not in {first}, which "
                f"has {', '.join(found)}"
            )
        found = tuple(name for name in found if name in wanted)
    for file in files:
        there = tuple(name for name in _names(file) if name in found)
        if there != found:
            raise ValueError(
                f"--classes: {file} has other classes than {first}, or in another order "
                f"({_some(there)} instead of {_some(found)}), and mmdet numbers them by their "
                "order: export both splits from the same project"
            )
    old = _old_count(cfg)
    for _, section in sections_of(cfg, ("dataloader", "dataset")):
        for leaf in data_sets_of(section):
            leaf["metainfo"] = _metainfo(leaf.get("metainfo"), found)
    _set_counts(cfg.get("model"), old, len(found))
    for name in _VARIABLES:
        if name in cfg:
            cfg[name] = found
    if "num_classes" in cfg:
        cfg["num_classes"] = len(found)
    if isinstance(cfg.get("metainfo"), dict):
        cfg["metainfo"] = _metainfo(cfg["metainfo"], found)
    return found


def set_class_count(model: Any, count: int) -> None:
    """Set num_classes of every head of a model's config. Changes it in place.

    Args:
        model: The config of an mmdet detector.
        count: Number of classes.

    Raises:
        ValueError: The model has no head with num_classes, or a head that counts otherwise.
    """
    _set_counts(model, _old_count(dict(model=model)), count)


def file_classes(ann_file: str | Path, all_files: Sequence[str | Path] = ()) -> tuple[str, ...]:
    """The class names of a COCO file in its order.

    Roboflow's exports hold one category more, the project, which is the supercategory of all
    others and has no box: it is left out.

    Args:
        ann_file: The annotation file.
        all_files: The files of all splits, in none of which such a category may have a box.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is not in COCO format, has no category, or has a name twice.
    """
    categories = [c for c in _categories(ann_file) if isinstance(c, dict)]
    names = [c["name"] for c in categories if isinstance(c.get("name"), str)]
    if not names or len(names) < len(categories):
        raise ValueError(f"annotation file {ann_file} names no categories: export it again as COCO")
    root = next((c for c in categories if _is_root(c, categories)), None)
    if root is not None and not any(
        _has_boxes(file, root["id"]) for file in all_files or [ann_file]
    ):
        names.remove(root["name"])
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(
            f"annotation file {ann_file} has several categories named {', '.join(doubled)}: give "
            "every category one name and one id"
        )
    return tuple(names)


def config_classes(leaf: Any) -> tuple[str, ...] | None:
    """Class names of a data set's config: its metainfo's, or those its type has by default."""
    metainfo = leaf.get("metainfo")
    classes = metainfo.get("classes") if isinstance(metainfo, dict) else None
    if classes is None:
        kind = _data_set_class(leaf.get("type"))
        classes = getattr(kind, "METAINFO", {}).get("classes")
    if isinstance(classes, str):
        # mmengine takes a text for a file of names.
        file = Path(classes).expanduser()
        return tuple(file.read_text().split("\n")) if file.is_file() else (classes,)
    return tuple(classes) if classes is not None else None


def is_coco(leaf: Any) -> bool:
    """Whether a data set's config reads a COCO annotation file."""
    kind = _data_set_class(leaf.get("type"))
    if kind is None:
        return str(leaf.get("ann_file")).endswith(".json") and "Coco" in str(leaf.get("type"))
    from mmdet.datasets import CocoDataset

    return issubclass(kind, CocoDataset)


def head_class_counts(model: Any) -> dict[str, int]:
    """num_classes by its place in the model's config, of every head that counts the classes."""
    return {place: owner[key] for place, owner, key in _counts(model) if key == "num_classes"}


def _data_set_class(kind: Any) -> Any:
    """The class behind a data set's type; None where mmdet does not import or know it."""
    if not isinstance(kind, str):
        return kind
    try:
        import mmdet.datasets  # noqa: F401  (registers them)
        from mmdet.registry import DATASETS
    except (ImportError, AssertionError):
        return None
    return DATASETS.get(kind)


def _annotation_files(cfg: Any, splits: Sequence[str]) -> dict[str, None]:
    """Every annotation file of the splits once, training first."""
    files: dict[str, None] = {}
    sections = sorted(sections_of(cfg, ("dataloader",)), key=lambda s: not s[0].startswith("train"))
    for name, section in sections:
        if name.startswith(tuple(splits)):
            for leaf in data_sets_of(section):
                if not is_coco(leaf):
                    raise ValueError(
                        f"--classes: {leaf.get('type')} of {name} is not in COCO format: give its "
                        "classes in metainfo and num_classes"
                    )
                files[join_path(leaf.get("data_root") or "", leaf["ann_file"])] = None
    return files


def _categories(ann_file: str | Path) -> list[Any]:
    categories = read_annotations(ann_file).get("categories")
    if not isinstance(categories, list):
        raise ValueError(f"annotation file {ann_file} has no list of categories: export it again")
    return categories


def _names(ann_file: str | Path) -> list[Any]:
    return [c.get("name") for c in _categories(ann_file) if isinstance(c, dict)]


def _is_root(category: dict[str, Any], categories: list[dict[str, Any]]) -> bool:
    others = [c for c in categories if c is not category]
    return (
        bool(others)
        and "id" in category
        and category.get("supercategory") in (None, "none", "")
        and all(c.get("supercategory") == category.get("name") for c in others)
    )


def _has_boxes(ann_file: str | Path, category_id: Any) -> bool:
    annotations = read_annotations(ann_file).get("annotations") or []
    return any(isinstance(a, dict) and a.get("category_id") == category_id for a in annotations)


def _metainfo(old: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    new = {**(old if isinstance(old, dict) else {}), "classes": classes}
    # A palette with fewer colours than classes stops mmdet's visualizer; CocoDataset has 80.
    if len(classes) > 80 or "palette" in new:
        new["palette"] = [_colour(n) for n in range(len(classes))]
    return new


def _colour(n: int) -> tuple[int, int, int]:
    """Well-spread colours: the golden ratio walks each channel at another pace."""
    return tuple(int(255 * ((n + 1) * step % 1)) for step in (0.618034, 0.754878, 0.569840))  # type: ignore[return-value]


def _counts(value: Any, place: str = "model") -> Iterator[tuple[str, Any, str]]:
    """(place, dict, key) of every count of classes below a model's config."""
    if isinstance(value, dict):
        for key in ("num_classes", "num_things_classes"):
            if isinstance(value.get(key), int):
                yield place, value, key
        for key in list(value):
            if key not in _OTHER_COUNTS:
                yield from _counts(value[key], f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _counts(item, f"{place}[{number}]")


def _old_count(cfg: Any) -> int:
    """The number of classes that the model's heads were set up for."""
    counts = list(_counts(cfg.get("model")))
    boxes = [owner[key] for place, owner, key in counts if "bbox_head" in place.rsplit(".", 1)[-1]]
    if not counts:
        if any(_box_heads(cfg.get("model"))):
            return 80
        raise ValueError("--classes: the model has no head with num_classes: set it in the config")
    _, owner, key = counts[0]
    return int(boxes[0] if boxes else owner[key])


def _set_counts(model: Any, old: int, new: int) -> None:
    for place, owner, key in list(_counts(model)):
        if key == "num_things_classes" and owner.get("num_stuff_classes"):
            raise ValueError(
                f"--classes: {place} is panoptic, which needs stuff classes besides boxes"
            )
        if owner[key] == old or "bbox_head" in place.rsplit(".", 1)[-1]:
            owner[key] = new
    for head in _box_heads(model):
        head.setdefault("num_classes", new)  # the head's default is COCO's 80
    _resize_weights(model, old, new)


def _box_heads(value: Any, name: str = "") -> Iterator[Any]:
    if isinstance(value, dict):
        if name == "bbox_head" and "type" in value:
            yield value
        for key in list(value):
            if key not in _OTHER_COUNTS:
                yield from _box_heads(value[key], str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _box_heads(item, name)


def _resize_weights(value: Any, old: int, new: int) -> None:
    """class_weight lists of one number per class, with or without one for the background."""
    if isinstance(value, dict):
        weights = value.get("class_weight")
        if isinstance(weights, (list, tuple)) and len(weights) in (old, old + 1):
            per_class, background = weights[:old], list(weights[old:])
            if len(set(per_class)) > 1:
                raise ValueError(
                    "--classes: class_weight has a number per class: set it in the config"
                )
            value["class_weight"] = [per_class[0]] * new + background
        for key in list(value):
            _resize_weights(value[key], old, new)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _resize_weights(item, old, new)


def _some(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:3])) + (" ..." if len(names) > 3 else "") if names else "none"
