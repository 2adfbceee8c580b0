"""Fitting necks and heads to the channels of another backbone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from mmdet.models.necks import FPN
from mmdet.registry import MODELS

from .common import SwapRefusedError, dicts_in, numbers
from .levels import Levels, ProbeError, probe_neck

# Parts of a detector that read no features of its backbone or neck.
_NO_READERS = ("type", "backbone", "neck", "data_preprocessor", "train_cfg", "test_cfg", "init_cfg")


def necks_of(detector: dict[str, Any]) -> list[Any]:
    """The necks in their order; most detectors have one, some none."""
    neck = detector.get("neck")
    return list(neck) if isinstance(neck, (list, tuple)) else [neck] if neck else []


def adapt_readers(detector: dict[str, Any], old: Levels, new: Levels) -> list[str]:
    """Fit what reads the backbone: the first neck, or the heads where there is none.

    Args:
        detector: The dict with backbone, necks and heads, changed in place.
        old: What the old backbone gave.
        new: What the new one gives.

    Returns:
        What was changed, a phrase each.

    Raises:
        SwapRefusedError: If nothing there names the old channels, or the neck's strides change.
    """
    necks = necks_of(detector)
    if not necks:
        changes = _adapt_heads(detector, old, new)
        if not changes:
            raise SwapRefusedError(
                f"{detector['type']} has no neck, and none of its heads names the "
                f"{numbers(old.channels)} channels that it reads from the old backbone"
            )
        return changes
    neck = necks[0]
    before = copy.deepcopy(neck)
    changes = [
        f"neck {neck['type']}: {key} {was} -> {becomes}"
        for key, was, becomes in _replace(neck, old.channels, new.channels, single=True)
    ]
    if not changes:
        raise SwapRefusedError(
            f"no argument of the neck {neck['type']} names the {numbers(old.channels)} channels "
            "that it reads, so it is not known how to fit it to others"
        )
    if len(necks) > 1:
        return changes  # the later ones read a pyramid whose width the first one sets
    try:
        outs, new_outs = probe_neck(before, old), probe_neck(neck, new)
    except ProbeError:
        return changes  # it needs an operator that does not run here; no such neck passes maps on
    if outs.strides != new_outs.strides:
        raise SwapRefusedError(
            f"the neck {neck['type']} gives maps of stride {numbers(new_outs.strides)} instead of "
            f"{numbers(outs.strides)} on Mobile-Former"
        )
    if outs.channels != new_outs.channels:
        # A neck that passes maps on as they are, such as SSD's: the heads list their channels.
        changes += _adapt_heads(detector, outs, new_outs)
    return changes


def put_mobileformer_fpn(
    detector: dict[str, Any], arch: str, indices: tuple[int, ...]
) -> tuple[tuple[int, ...], list[str]]:
    """Put a ``MobileFormerFPN`` in the place of an FPN.

    Args:
        detector: The dict with backbone, necks and heads, changed in place.
        arch: The Mobile-Former.
        indices: The backbone's ``out_indices`` so far.

    Returns:
        The ``out_indices`` that the neck reads, and what was changed.

    Raises:
        SwapRefusedError: If the neck is no FPN.
    """
    necks = necks_of(detector)
    name = necks[0].get("type") if necks else "no neck"
    if MODELS.get(str(name)) is not FPN:
        raise SwapRefusedError(
            f"--neck mobileformer takes an FPN's place, but {detector['type']} has {name} here: "
            "use --neck keep"
        )
    settings = {k: v for k, v in necks[0].items() if k not in ("type", "in_channels")}
    start, end = settings.pop("start_level", 0), settings.pop("end_level", -1)
    indices = indices[start : None if end == -1 else end + 1]
    # Where the pyramid has convolutions on top, the paper's reads P5's output.
    extra = "on_output" if settings.pop("add_extra_convs", False) else False
    settings = dict(
        type="MobileFormerFPN", arch=arch, out_indices=indices, add_extra_convs=extra, **settings
    )
    listed = isinstance(detector["neck"], (list, tuple))
    detector["neck"] = [settings, *necks[1:]] if listed else settings
    return indices, [f"neck FPN -> MobileFormerFPN {arch} with out_indices {indices}"]


def _adapt_heads(detector: dict[str, Any], old: Levels, new: Levels) -> list[str]:
    """In heads a single number counts only if there is one map: other parts may be as wide."""
    changes = []
    heads = {key: part for key, part in detector.items() if key not in _NO_READERS}
    for path, part in dicts_in(heads):
        for key, was, becomes in _replace(
            part, old.channels, new.channels, single=len(old.channels) == 1
        ):
            changes.append(f"{'.'.join((*path, key))} {was} -> {becomes}")
    return changes


def _replace(
    part: dict[str, Any], old: tuple[int, ...], new: tuple[int, ...], single: bool
) -> list[tuple[str, Any, Any]]:
    """Put new channels where the old ones stand in one dict; (key, old value, new value) each.

    A list under a key that ends in ``channels`` counts if it begins with the old channels, fine to
    coarse or coarse to fine. A single number counts, if ``single``, where it is the coarsest map's
    and says what is read.
    """
    found: list[tuple[str, Any, Any]] = []
    for key, value in part.items():
        if not str(key).endswith("channels"):
            continue
        if isinstance(value, (list, tuple)):
            for was, becomes in ((old, new), (old[::-1], new[::-1])):
                if tuple(value[: len(was)]) == was:
                    fitted = type(value)([*becomes, *value[len(was) :]])
                    found.append((key, value, fitted))
                    break
            continue
        # An RoI extractor's output is as wide as what it reads.
        reads = key == "in_channels" or (key == "out_channels" and "featmap_strides" in part)
        if single and reads and value == old[-1]:
            found.append((key, value, new[-1]))
    for key, _, fitted in found:
        part[key] = fitted
    return found


def in_channels_of_reader(detector: dict[str, Any]) -> Sequence[int] | None:
    """The list of channels that the first neck, or the head without one, says it reads."""
    readers = [*necks_of(detector), detector.get("panoptic_head"), detector.get("bbox_head")]
    first = next((part for part in readers if isinstance(part, dict)), {})
    channels = first.get("in_channels")
    return channels if isinstance(channels, (list, tuple)) else None
