"""Checks of picture files: there, whole, of the size the annotations state, of a common kind.

The quick part asks the folders for names and sizes, and opens a sample; the full part decodes all.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..pictures import Header, Picture, file_problem, inspect_picture, read_header
from .report import MOST_NAMES, Finding
from .sets import DataSet

#: Pictures per data set whose header and last bytes the quick part reads: more of a validation set,
#: where a single damaged one would end the run.
SAMPLE = {"train": 1000, "val": 5000, "test": 5000}
#: From this share on, missing or wrongly sized pictures are no accident.
TOO_MANY = 0.1
_FETCH = "Restore these files, or remove them from the annotation file."


def file_sizes(data_set: DataSet) -> dict[str, int]:
    """Bytes of every listed file that exists, by file name; one look at each folder."""
    folders: dict[str, dict[str, int]] = {}
    sizes = {}
    for name in data_set.table.files:
        path = os.path.join(data_set.folder, name)
        folder, base = os.path.split(path)
        if folder not in folders:
            folders[folder] = dict(_listing(folder))
        if base in folders[folder]:
            sizes[name] = folders[folder][base]
    return sizes


def _listing(folder: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file():
                        yield entry.name, entry.stat().st_size
                except OSError:
                    continue
    except OSError:
        return


def check_presence(data_set: DataSet, sizes: dict[str, int]) -> list[Finding]:
    """Files that are missing or empty. Training leaves a few out; validation needs every one."""
    files = list(dict.fromkeys(data_set.table.files))
    missing = [name for name in files if name not in sizes]
    empty = [name for name in files if sizes.get(name) == 0]
    findings = []
    if missing:
        message = f"{len(missing):,} of {len(files):,} pictures do not exist in {data_set.folder}"
        level = _level(data_set, len(missing) / len(files))
        findings.append(_finding(level, "file-missing", data_set, message, _FETCH, missing))
    if empty:
        message = f"{len(empty):,} pictures are empty (0 bytes)"
        level = _level(data_set, len(empty) / len(files))
        findings.append(_finding(level, "file-empty", data_set, message, _FETCH, empty))
    return findings


def check_sample(
    data_set: DataSet, sizes: dict[str, int], most: int | None = None
) -> list[Finding]:
    """Ends and headers of up to `most` files, evenly spread: enough to see what is systematic."""
    most = most or SAMPLE[data_set.split]
    names = [name for name in dict.fromkeys(data_set.table.files) if sizes.get(name)]
    step = max(1, -(-len(names) // most))
    chosen = names[::step]
    damaged, headers = {}, {}
    for name in chosen:
        problem = file_problem(data_set.path(name))
        if problem:
            damaged[name] = problem
        elif (header := read_header(data_set.path(name))) is not None:
            headers[name] = header
    of = "" if step == 1 else f" of {len(chosen):,} looked at"
    return _damaged(data_set, damaged, len(chosen), of) + _kinds(data_set, headers, of)


def check_all(
    data_set: DataSet, sizes: dict[str, int], progress: Callable[[int, int], None] | None = None
) -> tuple[list[Finding], dict[str, str]]:
    """Decode every file.

    Args:
        data_set: The data set, its table filled.
        sizes: From :func:`file_sizes`.
        progress: Called with the number of pictures done and their total.

    Returns:
        The findings, and a hash of the pixels per file name.
    """
    names = [name for name in dict.fromkeys(data_set.table.files) if sizes.get(name)]
    damaged, headers, pixels = {}, {}, {}
    for done, (name, picture) in enumerate(_inspect(data_set, names), 1):
        if picture.problem is not None or picture.pixels is None:
            damaged[name] = picture.problem or "cannot be decoded"
        else:
            pixels[name] = picture.pixels
            if picture.header is not None:
                headers[name] = picture.header
        if progress is not None:
            progress(done, len(names))
    findings = _damaged(data_set, damaged, len(names), "") + _kinds(data_set, headers, "")
    return findings + _twice(data_set, pixels), pixels


def _inspect(data_set: DataSet, names: Sequence[str]) -> Iterator[tuple[str, Picture]]:
    # Decoding releases the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(names), 256):
            part = names[start : start + 256]
            yield from zip(part, pool.map(inspect_picture, map(data_set.path, part)))


def _damaged(data_set: DataSet, damaged: dict[str, str], looked_at: int, of: str) -> list[Finding]:
    if not damaged:
        return []
    message = f"{len(damaged):,} pictures{of} are truncated or cannot be read"
    names = [f"{name} {problem}" for name, problem in damaged.items()]
    level = _level(data_set, len(damaged) / looked_at)
    return [_finding(level, "file-damaged", data_set, message, _FETCH, names)]


def _kinds(data_set: DataSet, headers: dict[str, Header], of: str) -> list[Finding]:
    """Sizes that differ from the annotations', rotation, and uncommon kinds of pictures."""
    stated = dict(zip(data_set.table.files, data_set.table.sizes.tolist()))
    turned: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for name, header in headers.items():
        seen = header.stored if data_set.ignores_orientation else header.upright
        if stated[name] != [float(v) for v in seen]:
            by_exif = header.stored != header.upright
            by_exif = by_exif and sorted(stated[name]) == sorted(float(v) for v in seen)
            width, height = stated[name]
            text = f"{name} (is {seen[0]}x{seen[1]}, annotated as {width:g}x{height:g})"
            (turned if by_exif else wrong)[name] = text
    findings = []
    if turned:
        message = (
            f"{len(turned):,} pictures{of} are turned by EXIF while training reads them, but their "
            "boxes are of the picture as it is stored"
            if not data_set.ignores_orientation
            else f"{len(turned):,} pictures{of} are annotated upright, but color_type in the pipeline "
            "reads them as they are stored"
        )
        advice = (
            "Save these pictures upright without EXIF, or set color_type="
            "'color_ignore_orientation' of LoadImageFromFile if all boxes are of the stored picture."
        )
        findings.append(_sized("exif-rotated", data_set, message, advice, turned, len(headers)))
    if wrong:
        message = f"{len(wrong):,} pictures{of} have another size than the annotation file states"
        advice = "Annotate the pictures at the size they have, or scale width, height and boxes."
        findings.append(_sized("size-differs", data_set, message, advice, wrong, len(headers)))
    fits = [n for n, h in headers.items() if h.orientation != 1 and n not in turned]
    kinds: tuple[tuple[str, str, list[str], str], ...] = (
        ("note", "exif", fits, "are turned by EXIF when training reads them, and their size fits"),
        (
            "warning",
            "16-bit",
            [n for n, h in headers.items() if h.bits > 8],
            "have more than 8 bits per channel; training sees the upper 8 bits only",
        ),
        (
            "note",
            "alpha",
            [n for n, h in headers.items() if h.mode in ("RGBA", "LA", "PA", "RGBa", "La")],
            "have an alpha channel, which is dropped: transparent parts show their hidden colour",
        ),
        (
            "note",
            "cmyk",
            [n for n, h in headers.items() if h.mode == "CMYK"],
            "are CMYK and are converted to RGB without their colour profile",
        ),
    )
    advices = {"16-bit": "Convert 16-bit pictures to 8 bits with the contrast you want."}
    for level, check, names, text in kinds:
        if names:
            message = f"{len(names):,} pictures{of} {text}"
            findings.append(
                _finding(level, check, data_set, message, advices.get(check, ""), names)
            )
    return findings


def _twice(data_set: DataSet, pixels: dict[str, str]) -> list[Finding]:
    groups = defaultdict(list)
    for name, digest in pixels.items():
        groups[digest].append(name)
    names = [" = ".join(group) for group in groups.values() if len(group) > 1]
    if not names:
        return []
    message = f"{len(names):,} pictures are there more than once under different names"
    return [_finding("note", "duplicate-picture", data_set, message, "", names)]


def check_overlap(
    train: DataSet,
    other: DataSet,
    pixels: dict[Path, dict[str, str]],
    sizes: dict[str, dict[str, int]],
) -> list[Finding]:
    """Pictures that training and validation share, which makes AP a measure of memory.

    Compares paths; then contents: of all pictures by the hashes of `pixels` where both sets have
    them, else of files that agree in name and bytes (the quick part).

    Args:
        train: The training set.
        other: The validation or test set.
        pixels: Hashes per file name, by folder of the data set; empty in the quick part.
        sizes: Bytes per file name, by name of the data set.
    """
    where = f"{train.name} and {other.name}"
    advice = "Keep every picture in one of the two: AP on pictures trained on says nothing."
    own = set(_paths(train, sizes[train.name]))
    paths = zip(sizes[other.name], _paths(other, sizes[other.name]))
    shared = [name for name, path in paths if path in own]
    if shared:
        message = (
            f"{len(shared):,} of {len(sizes[other.name]):,} pictures of {other.name} are trained on"
        )
        return [
            Finding(
                "warning", "overlap-files", where, message, advice, len(shared), shared[:MOST_NAMES]
            )
        ]
    left, right = (_contents(d, pixels, sizes, p) for d, p in ((train, other), (other, train)))
    copies = _roboflow_sources(train) & _roboflow_sources(other)
    if copies:
        message = (
            f"{len(copies):,} pictures of {other.name} are augmented copies of ones in {train.name}"
        )
        names = sorted(copies)[:MOST_NAMES]
        return [Finding("warning", "overlap-copies", where, message, advice, len(copies), names)]
    by_content: dict[Any, str] = {}
    for name, digest in left:
        by_content.setdefault(digest, name)
    pairs = [f"{by_content[digest]} = {name}" for name, digest in right if digest in by_content]
    if not pairs:
        return []
    message = f"{len(pairs):,} pictures of {other.name} are also in {train.name}"
    return [
        Finding(
            "warning", "overlap-content", where, message, advice, len(pairs), pairs[:MOST_NAMES]
        )
    ]


def _paths(data_set: DataSet, names: Iterable[str]) -> Iterator[str]:
    """Comparable paths; os.path.abspath for each would take seconds on a set of COCO's size."""
    folder = os.path.abspath(data_set.folder)
    for name in names:
        path = os.path.join(folder, name)
        yield os.path.normpath(path) if "." in os.path.dirname(name) else path


def _roboflow_sources(data_set: DataSet) -> set[str]:
    """Names of the pictures that Roboflow made the files from."""
    names = map(os.path.basename, data_set.table.files)
    return {name.split(".rf.")[0] for name in names if ".rf." in name}


def _contents(
    data_set: DataSet,
    pixels: dict[Path, dict[str, str]],
    sizes: dict[str, dict[str, int]],
    partner: DataSet,
) -> Iterator[tuple[str, Any]]:
    """(file name, hash) of what can be compared with the partner."""
    if pixels:
        # Two sets may share a folder.
        hashes = pixels.get(data_set.folder, {})
        yield from ((name, hashes[name]) for name in sizes[data_set.name] if name in hashes)
        return
    there = {(os.path.basename(n), size) for n, size in sizes[partner.name].items()}
    for name, size in sizes[data_set.name].items():
        if size and (os.path.basename(name), size) in there:
            try:
                content = data_set.path(name).read_bytes()
            except OSError:
                continue
            yield name, hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _level(data_set: DataSet, share: float) -> str:
    """A few bad pictures are left out in training; in validation they would end the run."""
    return "warning" if data_set.split == "train" and share < TOO_MANY else "error"


def _sized(
    check: str, data_set: DataSet, message: str, advice: str, wrong: dict[str, str], looked_at: int
) -> Finding:
    level = "error" if len(wrong) / looked_at >= TOO_MANY else "warning"
    return _finding(level, check, data_set, message, advice, list(wrong.values()))


def _finding(
    level: str, check: str, data_set: DataSet, message: str, advice: str, names: Sequence[str]
) -> Finding:
    return Finding(
        level, check, data_set.name, message, advice, len(names), list(names[:MOST_NAMES])
    )
