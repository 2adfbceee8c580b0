"""From an official ImageNet checkpoint to a file of ours, checked at every step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .archs import get_arch
from .checkpoint import (
    convert_official_state_dict,
    count_classes,
    is_official,
    read_checkpoint,
    recognise_arch,
    unwrap,
)
from .golden import check_conversion
from .version import __version__

LICENCE = (
    "weights of the authors of Mobile-Former (github.com/AAboys/MobileFormer), who give no licence: "
    "for your own use, not redistributable"
)


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        arch: The arch, recognised or given.
        classes: Classes of the classifier.
        taken: Entry of the source that held the weights; empty if it is a state dict itself.
        dropped: Names of what the source held beside, and of tensors left out on request.
        tensors: Tensors written.
        error: Largest error of the numerical check, in standard deviations.
        metadata: What was written beside the tensors.
    """

    arch: str
    classes: int
    taken: str
    dropped: list[str]
    tensors: int
    error: float
    metadata: dict[str, str]


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    arch: str | None = None,
    ema: bool = False,
    backbone_only: bool = False,
    say: Callable[[str], None] = print,
) -> Conversion:
    """Convert an official checkpoint file; the target is complete or not there at all.

    The arch follows from the shapes. Every key and shape is checked, then the conversion itself: on
    golden weights the converted model has to give the official numbers. What was written is read
    again and compared bit by bit.

    Args:
        source: The official file, as downloaded or as a training script wrapped it.
        target: ``.safetensors`` or ``.pth``; must not exist.
        arch: Insist on this arch; None recognises it.
        ema: Take the moving average of the weights that timm stores beside the plain ones.
        backbone_only: Leave the ImageNet classifier out.
        say: Takes a line for each step.

    Raises:
        FileExistsError: If the target exists.
        FileNotFoundError: If the source does not, or the target's folder does not.
        ValueError: If the source is unsafe, damaged or not what it should be, the target's suffix
            is another one, or the numerical check fails.
    """
    source, target = Path(source), Path(target)
    _check_target(target)
    if arch is not None:
        get_arch(arch)
    state_dict, taken, dropped = unwrap(read_checkpoint(source), source, ema)
    if not is_official(state_dict) and any(key.startswith("backbone.") for key in state_dict):
        raise ValueError(
            f"checkpoint {source} has the keys of this package, not the official ones: it needs no "
            "conversion, give it to `pretrained` as it is"
        )
    try:
        found = arch or recognise_arch(state_dict)
        converted = convert_official_state_dict(state_dict, found)
    except ValueError as error:
        raise ValueError(f"checkpoint {source}: {error}") from error
    classes = count_classes(state_dict)
    _check_values(converted, source)
    inside = f"entry {taken!r} of {source}" if taken else str(source)
    say(f"found      Mobile-Former-{found}, {classes} classes, {len(converted)} tensors: {inside}")
    if backbone_only:
        head = [key for key in converted if not key.startswith("backbone.")]
        dropped = [*dropped, *head]
        converted = {key: value for key, value in converted.items() if key not in set(head)}
    say(f"dropped    {', '.join(dropped) if dropped else 'nothing'}")
    if any(name.endswith("_ema") for name in dropped):
        say("           (with --ema the moving average is taken and the plain weights are dropped)")
    worst = check_conversion(found)
    say(
        "verified   on golden weights the converted model gives the official features, tokens and "
        f"logits (error {worst:.0e} of their standard deviation)"
    )
    metadata = {
        "arch": found,
        "classes": str(classes),
        "source_file": source.name,
        "source_sha256": _sha256(source),
        "converted_by": f"mmdet_mobileformer {__version__}",
        "licence": LICENCE,
    }
    _write(converted, metadata, target)
    say(f"written    {target}, {len(converted)} tensors, {target.stat().st_size / 1e6:.1f} MB")
    say(f"note       {LICENCE}")
    return Conversion(found, classes, taken, dropped, len(converted), worst, metadata)


def _check_target(target: Path) -> None:
    if target.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"output {target} must end in .safetensors or .pth")
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"output {target} exists and is kept: give another name")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"folder {target.parent} of the output does not exist: make it")


def _check_values(state_dict: Mapping[str, Tensor], source: Path) -> None:
    """A checkpoint of a training that failed holds NaN, which would fail much later."""
    bad = [key for key, value in state_dict.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"checkpoint {source} holds NaN or infinity in {bad[0]}: it is of no use")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(state_dict: Mapping[str, Tensor], metadata: dict[str, str], target: Path) -> None:
    """Write beside the target, read back, compare, and only then give it its name."""
    tensors = {key: value.detach().clone().contiguous() for key, value in state_dict.items()}
    partial = target.with_name(f".{os.getpid()}-partial-{target.name}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        if target.suffix == ".safetensors":
            _save_safetensors(tensors, metadata, partial)
        else:
            torch.save(dict(state_dict=tensors, meta=metadata), partial)
        again = unwrap(read_checkpoint(partial), partial).state_dict
        if set(again) != set(tensors) or not all(
            torch.equal(again[key], value) for key, value in tensors.items()
        ):
            raise OSError(f"output {target} did not read back as it was written: check the disk")
        partial.chmod(mode)  # safetensors makes files that only their owner may read
        _give_name(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _give_name(partial: Path, target: Path) -> None:
    """Rename, but never over a file that appeared meanwhile."""
    try:
        os.link(partial, target)
    except FileExistsError as error:
        raise FileExistsError(f"output {target} exists and is kept: give another name") from error
    except OSError:  # a file system without hard links
        _check_target(target)
        partial.rename(target)


def _save_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str], file: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError(
            f"output {file} needs the package safetensors: pip install safetensors, or write .pth"
        ) from error
    save_file(tensors, file, metadata={"format": "pt", **metadata})


def read_metadata(file: str | Path) -> dict[str, Any]:
    """What :func:`convert_checkpoint` wrote beside the tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
    file = Path(file)
    checkpoint = read_checkpoint(file)
    if file.suffix != ".safetensors":
        return dict(checkpoint.get("meta", {}))
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stream:
        return {key: value for key, value in stream.metadata().items() if key != "format"}
