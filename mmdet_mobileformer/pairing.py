"""Whether backbone, necks and heads of a config fit, before anything is built.

A registry builds the parts of a detector apart, so each learns only at the first forward what the
others are. A tool that holds the whole config can tell at once. Knows the arch data alone: neither
mmdet nor torch is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .archs import STRIDES, get_arch


def check_pairing(cfg: Mapping[str, Any]) -> None:
    """Stop when something reads other features than its Mobile-Former backbone gives.

    Looks at every detector in the config, nested ones included (test-time augmentation, teachers),
    and there at all necks with a list of ``in_channels`` or an ``arch``; where no neck stands
    between, at the head as well. What says nothing about its input passes.

    Args:
        cfg: A config with ``model``, or the model's part of one: mmengine's Config or a dict.

    Raises:
        ValueError: One sentence with both sides' settings and channels.
    """
    model = cfg.get("model") or cfg
    for name, detector in _detectors(model, "model"):
        backbone = detector["backbone"]
        given = _given(backbone)
        if given is None:
            continue
        for part, config in _readers(detector):
            expected = _expected(config)
            # Some necks of mmdet (YOLOV3Neck) list their channels coarse to fine.
            if expected is not None and sorted(expected) != sorted(given):
                raise ValueError(
                    f"{name}.{part} {_describe(config)} expects features of {expected} channels, "
                    f"but {name}.backbone {_describe(backbone)} gives {given}: give both the same "
                    "arch and the matching out_indices"
                )


def _detectors(value: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict with a backbone, and its place in the config."""
    if isinstance(value, Mapping):
        if isinstance(value.get("backbone"), Mapping):
            yield name, value
        for key in value:
            yield from _detectors(value[key], f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _detectors(item, f"{name}.{index}")


def _readers(detector: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What reads the backbone's features: all necks, and the head where there is no neck."""
    for key, part in detector.items():
        # A teacher's neck (LAD) reads the teacher's own backbone.
        if not str(key).endswith("neck") or str(key).startswith("teacher"):
            continue
        # Of several necks in a row the first one reads the backbone.
        first = part[0] if isinstance(part, (list, tuple)) and part else part
        if isinstance(first, Mapping):
            yield key, first
    head = detector.get("bbox_head")
    if detector.get("neck") is None and isinstance(head, Mapping):
        yield "bbox_head", head


def _given(backbone: Mapping[str, Any]) -> list[int] | None:
    """Channels of the backbone's outputs; None for a backbone that is none of ours."""
    if _type(backbone) != "MobileFormer":
        return None
    return _widths(backbone.get("arch", "508m"), backbone.get("out_indices", (0, 1, 2, 3)))


def _expected(part: Mapping[str, Any]) -> list[int] | None:
    """Channels that a neck or head is built for; None where its config does not say."""
    kind = _type(part)
    if kind == "MobileFormerFPN":
        return _widths(part.get("arch", "508m"), part.get("out_indices", (1, 2, 3)))
    if kind == "E2EMFHead" and part.get("in_channels") is None:
        scales = sorted(part.get("scales", (32, 16, 8)))
        if part.get("arch") is None or any(scale not in STRIDES for scale in scales):
            return None  # the head itself says what is wrong
        return _widths(part["arch"], [STRIDES.index(scale) for scale in scales])
    channels = part.get("in_channels")
    if isinstance(channels, (list, tuple)) and all(isinstance(c, int) for c in channels):
        return list(channels)
    return None


def _widths(arch: str, indices: Any) -> list[int] | None:
    widths = get_arch(arch).out_channels
    if not isinstance(indices, (list, tuple)) or any(i not in range(4) for i in indices):
        return None  # the part itself says what is wrong
    return [widths[index] for index in indices]


def _type(config: Mapping[str, Any]) -> str:
    """The type's name without its scope; a class in mmengine's new style of configs."""
    kind = config.get("type", "")
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]


def _describe(config: Mapping[str, Any]) -> str:
    settings = ", ".join(
        f"{key}={config[key]!r}"
        for key in ("arch", "out_indices", "scales", "in_channels")
        if config.get(key) is not None
    )
    return f"{_type(config)}({settings})"
