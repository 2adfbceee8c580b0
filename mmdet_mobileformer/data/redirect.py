"""--data-root: point every data set and evaluator of a config at another folder.

A config substitutes `data_root` when it is read, so changing the variable afterwards reaches
nothing. Here the data sets themselves are found, however deeply they are nested.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: Keys of a data set or evaluator that hold paths, by their ending; and those that are written to.
_PATH_ENDINGS = ("_file", "_prefix", "_root", "_dir", "_path")
_OUTPUTS = ("outfile_prefix", "proposals_file", "output_dir", "out_dir", "out_file_path", "tmpdir")
#: Keys whose contents are no data: the transforms, and how files are read.
_NOT_DATA = ("pipeline", "transforms", "backend_args", "metainfo", "sampler", "batch_sampler")


def redirect_data_root(cfg: Any, root: str | Path) -> None:
    """Make every data set and evaluator of a config read from `root`. Changes `cfg` in place.

    Looks below every top-level key that ends in dataloader, dataset or evaluator (so also
    `tta_dataloader`), through wrappers (RepeatDataset, ConcatDataset, ClassBalancedDataset,
    MultiImageMixDataset), lists of data sets and lists of evaluators. A data set's own `data_root`
    is replaced; one that lies below the config's `data_root` keeps its place below the new root.
    Any path that starts with an old root (`ann_file` of CocoMetric) gets the new one. Absolute
    paths outside the old roots stay. The pipelines, also those of test-time augmentation, hold no root.

    Args:
        cfg: mmengine's Config or a dict.
        root: The new data root. It is not checked here: see :func:`check_data`.

    Raises:
        ValueError: if the config has no data set, or a relative path that lies under no known root.
    """
    root = str(root)
    sections = list(sections_of(cfg, ("dataloader", "dataset", "evaluator")))
    top = cfg.get("data_root")
    olds = [top] if isinstance(top, str) else []
    for _, section in sections:
        olds += [d["data_root"] for d in data_sets_of(section) if isinstance(d.get("data_root"), str)]
    if not any(True for _, section in sections for _ in data_sets_of(section)):
        raise ValueError("--data-root: the config has no data set to redirect")
    move = _Move(olds, top, root)
    for name, section in sections:
        found = dicts_of if name.endswith("evaluator") else data_sets_of
        for owner in found(section):
            if id(owner) in move.done:
                continue
            move.done.add(id(owner))
            own = owner.get("data_root")
            move.paths(owner, name, relative=bool(own))
            if own:
                owner["data_root"] = move.root(own)
    if isinstance(top, str):
        cfg["data_root"] = root


class _Move:
    """Old roots to the new one."""

    def __init__(self, olds: Iterable[str], top: str | None, new: str) -> None:
        # A root that is empty or the current folder says nothing: every relative path is below it.
        here = os.path.abspath(".")
        known = {old for old in olds if old and _plain(old) != here}
        self.olds = sorted(known, key=lambda old: len(_plain(old)), reverse=True)
        self.top = top if top in known else None
        self.new = new
        # val_dataloader and test_dataloader may be one object: move it once.
        self.done: set[int] = set()

    def root(self, old: str) -> str:
        """The new place of a data set's root: below the new root as it was below the config's."""
        rest = None if self.top is None else _below(old, self.top)
        return self.new if not rest else join_path(self.new, rest)

    def path(self, old: str) -> str | None:
        """The new place of a path below an old root; None where it is below none."""
        for root in self.olds:
            rest = _below(old, root)
            if rest is not None:
                joined = join_path(self.root(root), rest)
                return joined + "/" if old.endswith("/") and not joined.endswith("/") else joined
        return None

    def paths(self, owner: Any, name: str, relative: bool) -> None:
        """Move the paths of one data set or evaluator; `relative`: its own root is put in front."""
        for key in list(owner):
            if key in _OUTPUTS or key == "data_root" or not str(key).endswith(_PATH_ENDINGS):
                continue
            owner[key] = self._moved(owner[key], f"{key} of {name}", relative)

    def _moved(self, value: Any, what: str, relative: bool) -> Any:
        if isinstance(value, dict):
            return type(value)({k: self._moved(v, what, relative) for k, v in value.items()})
        if isinstance(value, (list, tuple)):
            return type(value)(self._moved(v, what, relative) for v in value)
        if not isinstance(value, str) or not value:
            return value
        new = self.path(value)
        if new is not None:
            return new
        if relative or os.path.isabs(value) or "://" in value:
            return value
        roots = ", ".join(repr(old) for old in self.olds) or "none is set"
        raise ValueError(
            f"--data-root cannot redirect {what}: {value!r} is below none of the config's data "
            f"roots ({roots}); set data_root in the config"
        )


def check_data(cfg: Any, splits: Iterable[str]) -> None:
    """Stop before any long work when annotation files or image folders of a config are missing.

    Args:
        cfg: mmengine's Config or a dict.
        splits: The splits about to be used: 'train', 'val', 'test'.

    Raises:
        FileNotFoundError: one sentence that names what is missing and the expected layout.
    """
    splits = tuple(splits)
    missing: list[str] = []
    layout: list[str] = []
    roots: list[str] = []
    for name, section in sections_of(cfg, ("dataloader", "evaluator")):
        if not name.startswith(splits):
            continue
        if name.endswith("evaluator"):
            files = [f for e in dicts_of(section) for f in strings_of(e.get("ann_file"))]
            missing += [f for f in files if "://" not in f and not os.path.isfile(f)]
            continue
        for data_set in data_sets_of(section):
            root = data_set.get("data_root") or ""
            roots.append(root)
            for path, is_there in _needs(data_set):
                layout.append(path)
                full = join_path(root, path)
                if "://" not in full and not is_there(full):
                    missing.append(full)
    if not missing:
        return
    names = list(dict.fromkeys(missing))
    places = sorted({root or "." for root in roots})
    parts = [part if part else "." for part in dict.fromkeys(layout)]
    hint = ""
    if any(os.path.basename(_plain(place)) == "shapes" for place in places):
        hint = "; tools/dataset_converters/make_shapes.py makes the embedded data set"
    raise FileNotFoundError(
        f"the data set is incomplete, missing {'is' if len(names) == 1 else 'are'} "
        f"{', '.join(names)}: COCO's layout is expected, {', '.join(parts)} below "
        f"{', '.join(places)}, and --data-root gives another place{hint}"
    )


def _needs(data_set: Any) -> Iterator[tuple[str, Any]]:
    """The files and folders of a data set, relative to its root, each with its check."""
    for path in strings_of(data_set.get("ann_file")):
        yield path, os.path.exists
    prefixes = data_set.get("data_prefix")
    for path in strings_of(list(prefixes.values()) if isinstance(prefixes, dict) else prefixes):
        yield path, _is_folder


def _is_folder(path: str) -> bool:
    # A prefix may end inside a file name; the part before the last slash is a folder in any case.
    return os.path.isdir(path) or (not path.endswith("/") and os.path.isdir(os.path.dirname(path)))


def sections_of(cfg: Any, endings: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Top-level entries of a config by the ending of their name, lists of them included."""
    for name in list(cfg.keys()):
        if str(name).endswith(endings) and isinstance(cfg[name], (dict, list, tuple)):
            yield name, cfg[name]


def dicts_of(value: Any) -> Iterator[Any]:
    """Every dict in a value, itself included, but for what is no data."""
    if isinstance(value, dict):
        yield value
        for key in list(value):
            if key not in _NOT_DATA and not str(key).endswith("_prefix"):
                yield from dicts_of(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from dicts_of(item)


def data_sets_of(value: Any) -> Iterator[Any]:
    """Every data set in a value that itself names files, not its wrappers."""
    for item in dicts_of(value):
        if any(key in item for key in ("data_root", "ann_file", "data_prefix")):
            yield item


def strings_of(value: Any) -> list[str]:
    """The strings of a value that is one, or a list of some."""
    if isinstance(value, (list, tuple)):
        return [item for item in value if isinstance(item, str) and item]
    return [value] if isinstance(value, str) and value else []


def _plain(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(os.path.expanduser(path))


def _below(path: str, root: str) -> str | None:
    """`path` relative to `root`; '' for the root itself, None where it is not below it."""
    plain, base = _plain(path), _plain(root)
    if plain == base:
        return ""
    return plain[len(base) + 1 :] if plain.startswith(base.rstrip("/") + "/") else None


def join_path(root: str, path: str) -> str:
    """os.path.join, but without a trailing slash for an empty rest."""
    return os.path.join(root, path) if path else root
