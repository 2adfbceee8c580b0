"""What else of a config belongs to its backbone: weights, normalisation, learning rate, imports."""

from __future__ import annotations

import copy
from typing import Any

from .common import dicts_in

#: What ImageNet checkpoints of Mobile-Former expect (torchvision's values, RGB).
NORMALISATION: dict[str, Any] = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
)
#: Sets a learning rate per layer by the names of ConvNeXt's layers, and raises for other backbones.
_CONVNEXT_CONSTRUCTOR = "LearningRateDecayOptimizerConstructor"


def forget_checkpoints(config: dict[str, Any], detector: dict[str, Any]) -> list[str]:
    """Drop checkpoints of the whole detector, which hold the old backbone; what was changed."""
    changes = []
    if config.get("load_from"):
        changes.append(f"load_from {config['load_from']} dropped: it holds the old backbone")
        config["load_from"] = None
    for part in (config["model"], detector):
        if "Pretrained" in str(part.get("init_cfg")):
            changes.append(f"init_cfg of {part['type']} dropped: it holds the old backbone")
            part["init_cfg"] = None
    return changes


def normalise(model: dict[str, Any]) -> list[str]:
    """Mobile-Former's normalisation in every data preprocessor, also a wrapped one."""
    changed = False
    for path, part in dicts_in(model):
        if not path or path[-1] != "data_preprocessor" or "data_preprocessor" in part:
            continue
        wanted = dict(NORMALISATION, rgb_to_bgr=False) if part.get("rgb_to_bgr") else NORMALISATION
        if any(part.get(key) != value for key, value in wanted.items()):
            part.update(copy.deepcopy(wanted))
            changed = True
    return ["images RGB with ImageNet's mean and std, as Mobile-Former's checkpoints expect"][
        : int(changed)
    ]


def adapt_optimizer(config: dict[str, Any], from_scratch: bool) -> list[str]:
    """No learning rate that only made sense for the old backbone or its checkpoint."""
    wrapper = config.get("optim_wrapper") or {}
    if str(wrapper.get("constructor")).endswith(_CONVNEXT_CONSTRUCTOR):
        del wrapper["constructor"]
        wrapper.pop("paramwise_cfg", None)
        return ["the learning rate per layer of ConvNeXt dropped"]
    own = ((wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}).get("backbone")
    if from_scratch and own and own.get("lr_mult", 1.0) < 1.0:
        before, own["lr_mult"] = own["lr_mult"], 1.0
        return [f"lr_mult of the backbone {before} -> 1.0, since it starts from scratch"]
    return []


def import_package(config: dict[str, Any], old_type: str) -> None:
    """Have mmengine import this package, and no longer one that only the old backbone needed."""
    found = (config.get("custom_imports") or {}).get("imports") or []
    imports = [found] if isinstance(found, str) else list(found)
    scope = old_type.partition(".")[0] if "." in old_type else ""
    if scope and not any(
        str(part.get("type", "")).startswith(f"{scope}.") for _, part in dicts_in(config)
    ):
        imports = [name for name in imports if name.split(".")[0] != scope]
    if "mmdet_mobileformer" not in imports:
        imports.append("mmdet_mobileformer")
    config["custom_imports"] = dict(imports=imports, allow_failed_imports=False)
