"""From the config of any mmdet detector to the same detector on Mobile-Former.

What the old backbone gives is found out by running it (levels.py), not looked up in a list of
names. Each of its maps is replaced by Mobile-Former's of the same stride, so strides of anchors and
RoI extractors stay right; what holds the old channels gets the new ones (channels.py); what
belonged to the old backbone's checkpoint goes (settings.py).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ..archs import STRIDES, get_arch
from .channels import adapt_readers, in_channels_of_reader, put_mobileformer_fpn
from .common import SwapRefusedError, dicts_in, numbers
from .config_file import read_base
from .levels import Levels, ProbeError, probe_backbone
from .settings import adapt_optimizer, forget_checkpoints, import_package, normalise

NECKS = ("keep", "mobileformer")


@dataclass(frozen=True)
class Swap:
    """A rewritten config.

    Attributes:
        config: The whole config as plain dicts and lists.
        old: What the old backbone gave.
        new: What Mobile-Former gives.
        changes: What was changed, a phrase each.
    """

    config: dict[str, Any]
    old: Levels
    new: Levels
    changes: tuple[str, ...]


def swap_backbone(
    cfg: Config | str | Path, arch: str, neck: str = "keep", pretrained: str | None = None
) -> Config:
    """The same detector on Mobile-Former, ready to build or to train.

    Args:
        cfg: A config of mmdet: mmengine's Config, the path of a file, or ``'mmdet::...'``. It is
            left as it was.
        arch: The Mobile-Former, ``'26m'`` to ``'508m'``.
        neck: ``'keep'`` only gives the neck other input channels; ``'mobileformer'`` puts a
            ``MobileFormerFPN`` in an FPN's place.
        pretrained: An ImageNet checkpoint of the backbone, official or ours. None trains from
            scratch: nothing is frozen, BatchNorm trains, and the backbone's learning rate is that
            of the rest.

    Returns:
        The complete new config.

    Raises:
        SwapRefusedError: If this detector cannot do without its backbone, with the reason.
        ValueError: If an argument or the config is wrong.
        FileNotFoundError: If the config or ``pretrained`` does not exist.
    """
    base = cfg if isinstance(cfg, Config) else read_base(str(cfg))
    return Config(rewrite(base, arch, neck, pretrained).config, filename=base.filename)


def rewrite(cfg: Config, arch: str, neck: str = "keep", pretrained: str | None = None) -> Swap:
    """As :func:`swap_backbone`, with an account of what was changed."""
    spec = get_arch(arch)
    if neck not in NECKS:
        raise ValueError(f"neck is {neck!r}: choose 'keep' or 'mobileformer'")
    if pretrained is not None and not Path(pretrained).expanduser().is_file():
        raise FileNotFoundError(f"pretrained={pretrained!r} does not exist: give a checkpoint file")
    config: dict[str, Any] = copy.deepcopy(cfg.to_dict())
    register_all_modules(init_default_scope=True)
    detector = find_detector(config)
    backbone = detector["backbone"]
    old, assumed = _old_levels(detector)
    _refuse_coupled(detector, old)
    indices = _indices(old, backbone["type"])
    new = Levels(tuple(spec.out_channels[i] for i in indices), old.strides)

    changes = [*assumed, f"backbone {backbone['type']} ({old}) -> MobileFormer {arch} ({new})"]
    if neck == "mobileformer":
        indices, changed = put_mobileformer_fpn(detector, arch, indices)
        changes += changed
    else:
        changes += adapt_readers(detector, old, new)
    detector["backbone"] = _mobileformer(arch, indices, backbone, pretrained)
    changes.append(
        "the backbone starts from random weights (--pretrained FILE gives others), nothing is frozen"
        if pretrained is None
        else f"the backbone starts from {pretrained}"
    )
    changes += forget_checkpoints(config, detector)
    changes += normalise(config["model"])
    changes += adapt_optimizer(config, from_scratch=pretrained is None)
    import_package(config, str(backbone["type"]))
    return Swap(config, old, new, tuple(changes))


def find_detector(config: dict[str, Any]) -> dict[str, Any]:
    """The dict with the backbone: the model, or the one inside a semi-supervised detector.

    Raises:
        ValueError: If the config has no model.
        SwapRefusedError: If the model is no detector with a backbone of its own.
    """
    model = config.get("model")
    if not isinstance(model, dict) or "type" not in model:
        raise ValueError("the config has no `model`: give the config of a detector")
    name = str(model["type"])
    kind = MODELS.get(name)
    if kind is None:
        raise SwapRefusedError(
            f"{name} is registered neither by mmdet nor by a package that is installed here"
        )
    if any(model.get(key) for key in ("tracker", "track_head")):
        raise SwapRefusedError(
            f"{name} is a tracker: swap the backbone of the detector that it is built on"
        )
    if model.get("language_model"):
        raise SwapRefusedError(
            f"{name} has a text backbone ({model['language_model'].get('type')}), and its weights "
            "join that to the old picture backbone"
        )
    if not (isinstance(kind, type) and issubclass(kind, BaseDetector)):
        raise SwapRefusedError(f"{name} is no detector, but a model for another task")
    inner = model.get("detector")
    detector = inner if isinstance(inner, dict) and "backbone" not in model else model
    if not isinstance(detector.get("backbone"), dict) or "type" not in detector["backbone"]:
        raise SwapRefusedError(f"{name} takes its backbone from another library than mmdet")
    return detector


def _old_levels(detector: dict[str, Any]) -> tuple[Levels, list[str]]:
    name = detector["backbone"]["type"]
    try:
        return probe_backbone(detector["backbone"]), []
    except ProbeError as error:
        # Not installed here (mmpretrain, timm): what reads it says how many levels there are.
        channels = in_channels_of_reader(detector)
        if channels is None or not 1 <= len(channels) <= len(STRIDES):
            raise SwapRefusedError(
                f"what {name} gives cannot be found out, since it does not run here ({error})"
            ) from error
        strides = STRIDES[-len(channels) :]
        note = (
            f"{name} cannot be built here, so its {len(channels)} maps are taken to be those of "
            f"stride {numbers(strides)}"
        )
        return Levels(tuple(channels), strides), [note]


def _refuse_coupled(detector: dict[str, Any], old: Levels) -> None:
    """Stop where other parts are made of, or trained on, the inside of the old backbone."""
    name, backbone = detector["type"], detector["backbone"]["type"]
    if old.branches > 1:
        raise SwapRefusedError(
            f"{backbone} gives {old.branches} maps per image, one per dilation, and {name} trains "
            "on all of them; Mobile-Former has one"
        )
    for path, part in dicts_in({key: v for key, v in detector.items() if key != "backbone"}):
        for key, value in part.items():
            where = ".".join((*path, str(key)))
            if not isinstance(value, dict):
                continue
            if key == "shared_head":
                raise SwapRefusedError(
                    f"{where} ({value.get('type')}) is the old backbone's last stage, run on "
                    "every RoI, and Mobile-Former has none that could take its place"
                )
            if str(key).endswith("backbone") and not where.startswith("teacher"):
                raise SwapRefusedError(
                    f"{where} is a second {value.get('type')} that is fed with feature maps "
                    "between its stages, which Mobile-Former does not take"
                )


def _indices(old: Levels, name: str) -> tuple[int, ...]:
    """Mobile-Former's ``out_indices`` with the old backbone's strides."""
    absent = [stride for stride in old.strides if stride not in STRIDES]
    if absent:
        raise SwapRefusedError(
            f"{name} gives a map of stride {absent[0]}, and Mobile-Former only has strides "
            f"{numbers(STRIDES)}"
        )
    if list(old.strides) != sorted(set(old.strides)):
        raise SwapRefusedError(
            f"{name} gives maps of stride {numbers(old.strides)}, and Mobile-Former gives exactly "
            "one per stride, fine to coarse"
        )
    return tuple(STRIDES.index(stride) for stride in old.strides)


def _mobileformer(
    arch: str, indices: Sequence[int], backbone: dict[str, Any], pretrained: str | None
) -> dict[str, Any]:
    new: dict[str, Any] = dict(
        type="MobileFormer",
        arch=arch,
        # The form of the ImageNet classifier, as in the configs of RetinaNet.
        dynamic_relu="first-token",
        out_indices=tuple(indices),
    )
    if backbone.get("with_cp"):
        new["with_cp"] = True
    if pretrained is not None:
        # Statistics and first stages that come from a checkpoint are kept as the base kept them.
        frozen = backbone.get("frozen_stages", -1)
        new["frozen_stages"] = frozen if isinstance(frozen, int) and frozen in range(-1, 5) else -1
        new["norm_eval"] = bool(backbone.get("norm_eval", False))
        new["init_cfg"] = dict(type="Pretrained", checkpoint=pretrained)
    return new
