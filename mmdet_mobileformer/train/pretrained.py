"""The config's one variable `pretrained`: ImageNet weights for the backbone, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.runner import find_latest_checkpoint

#: lr_mult of a pretrained backbone (the paper follows DETR: 1e-5 beside 1e-4).
BACKBONE_LR_MULT = 0.1


def apply_pretrained(cfg: Any, say: Callable[[str], None] = print) -> None:
    """Set the backbone up for training from ImageNet weights, or say that there are none.

    With `pretrained = FILE`: the backbone is loaded from it (every key must match, or building
    the run stops), its BatchNorm stays in eval mode and its learning rate is a tenth. With None
    the config keeps its from-scratch values: lr_mult 1 and BatchNorm in training mode. Nothing
    happens if the config has no `pretrained`.

    Args:
        cfg: The config with `work_dir`, `resume` and `load_from` set, changed in place.
        say: Takes the sentence for the user.

    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: when `pretrained` is no path, or the model has no backbone.
    """
    if "pretrained" not in cfg:
        return
    file = cfg["pretrained"]
    loaded_later = _starts_from_a_checkpoint(cfg)
    if file is None:
        if not loaded_later:
            say(
                "Training from scratch: the paper starts from ImageNet weights; give them by "
                "`pretrained = 'FILE'` in the config or `--cfg-options pretrained=FILE`."
            )
        return
    if not isinstance(file, str):
        raise ValueError(f"pretrained must be None or the path of a checkpoint, not {file!r}")
    model = cfg.get("model") or {}
    if "backbone" not in model:
        raise ValueError("pretrained is set, but the config's model has no backbone")
    optim = cfg.setdefault("optim_wrapper", {})
    multipliers = optim.setdefault("paramwise_cfg", {}).setdefault("custom_keys", {})
    lr_mult = cfg.get("pretrained_lr_mult", BACKBONE_LR_MULT)
    multipliers.setdefault("backbone", {})["lr_mult"] = lr_mult
    model["backbone"]["norm_eval"] = True
    if loaded_later:
        # The run continues from a checkpoint: the weights in FILE would be overwritten at once.
        return
    if not Path(file).expanduser().is_file():
        raise FileNotFoundError(
            f"pretrained={file!r} does not exist: give the path of an ImageNet checkpoint of the "
            "backbone, or None to train from scratch"
        )
    model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint=str(Path(file).expanduser()))


def _starts_from_a_checkpoint(cfg: Any) -> bool:
    """Whether the run loads weights of the whole detector before its first step."""
    if cfg.get("load_from"):
        return True
    return bool(cfg.get("resume")) and find_latest_checkpoint(cfg["work_dir"]) is not None
