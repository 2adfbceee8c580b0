"""Official ImageNet checkpoints, and strict loading of a backbone from a file.

The key names of the official code are facts of its checkpoints; the layout here is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from .archs import Arch, get_arch
from .backbone import MobileFormer, MobileFormerClassifier

#: Names inside a block that every kind has: official prefix to ours.
_SHARED = {
    "local_global.alpha.0": "mobile_to_former.gate",
    "local_global.q": "mobile_to_former.query",
    "local_global.proj": "mobile_to_former.out",
    "local_global.layer_norm": "mobile_to_former.norm",
    "global_block.q": "former.query",
    "global_block.channel_mlp": "former.out",
    "global_block.layer_norm": "former.norm",
    "global_block.ffn.0": "former.fc1",
    "global_block.ffn.2": "former.fc2",
    "global_block.ffn_norm": "former.ffn_norm",
    "global_local.k": "former_to_mobile.key",
    "global_local.proj": "former_to_mobile.value",
}
#: Convolutions (with their BatchNorm) and dynamic ReLUs of each kind of block.
_CONVS = {
    "mobile": {"conv1": "mobile.expand", "conv2": "mobile.depthwise", "conv3": "mobile.project"},
    "down": {
        "conv1": "mobile.depthwise1",
        "conv2": "mobile.project1",
        "conv3": "mobile.depthwise2",
        "conv4": "mobile.project2",
    },
}
_RELUS = {
    "mobile": {"hyper1": "mobile.relu1", "hyper2": "mobile.relu2"},
    "down": {"hyper1": "mobile.relu1", "hyper3": "mobile.relu2"},
}
_HEAD = {
    "local_global.alpha.0": "head.mobile_to_former.gate",
    "local_global.q": "head.mobile_to_former.query",
    "local_global.proj": "head.mobile_to_former.out",
    "local_global.layer_norm": "head.mobile_to_former.norm",
    "classifier.conv.1": "head.conv.conv",
    "classifier.conv.2": "head.conv.bn",
    "classifier.fc.0": "head.fc1",
    "classifier.fc.1": "head.bn",
    "classifier.classifier.1": "head.fc2",
}
#: What training scripts put around a state dict or in front of its keys.
_WRAPPERS = ("state_dict", "model", "state_dict_ema")


def _layer_names(arch: Arch) -> dict[str, str]:
    """Official layer name to ours, for every layer of a classifier."""
    names = {"stem.0": "backbone.stem.conv", "stem.1": "backbone.stem.bn"}
    for index, block in enumerate(arch.blocks):
        theirs, ours = f"features.{index}", f"backbone.blocks.{index}"
        if block.kind == "lite":
            for position, layer in (
                (0, "depthwise.conv"),
                (1, "depthwise.bn"),
                (4, "pointwise.conv"),
                (5, "pointwise.bn"),
            ):
                names[f"{theirs}.conv.{position}"] = f"{ours}.{layer}"
            continue
        for old, new in _CONVS[block.kind].items():
            names[f"{theirs}.{old}.0"] = f"{ours}.{new}.conv"
            names[f"{theirs}.{old}.1"] = f"{ours}.{new}.bn"
        for old, new in _RELUS[block.kind].items():
            names[f"{theirs}.{old}.hyper.0"] = f"{ours}.{new}.squeeze"
            names[f"{theirs}.{old}.hyper.2"] = f"{ours}.{new}.expand"
        for old, new in _SHARED.items():
            names[f"{theirs}.{old}"] = f"{ours}.{new}"
    return {**names, **_HEAD}


def _rename_official(state_dict: Mapping[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Official keys to ours; keys of no known layer keep their name, for the check to report."""
    layers = _layer_names(arch)
    renamed = {}
    for key, value in state_dict.items():
        layer, _, leaf = key.rpartition(".")
        if key == "tokens.weight":
            renamed["backbone.tokens"] = value
        else:
            renamed[f"{layers[layer]}.{leaf}" if layer in layers else key] = value
    return renamed


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise ValueError unless names and shapes agree; the sentence names the first few."""
    problems = []
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    misshapen = [
        f"{key} is {tuple(found[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    for word, keys in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            problems.append(f"{len(keys)} keys are {word} ({', '.join(keys[:3])}{more})")
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}")


def is_official(state_dict: Mapping[str, Any]) -> bool:
    """Whether the keys are those of the official code."""
    return "tokens.weight" in state_dict and any(k.startswith("features.") for k in state_dict)


def convert_official_state_dict(state_dict: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Convert an official ImageNet state dict to that of :class:`MobileFormerClassifier`.

    Args:
        state_dict: Official keys and values, unwrapped.
        arch: The arch it is of.

    Returns:
        The same tensors under our names: ``backbone.*`` and ``head.*``.

    Raises:
        ValueError: If the arch is unknown, or a key is missing, unknown or misshapen.
    """
    renamed = _rename_official(state_dict, get_arch(arch))
    classes = renamed["head.fc2.bias"].shape[0] if "head.fc2.bias" in renamed else 1000
    with torch.device("meta"):
        expected = MobileFormerClassifier(arch, num_classes=classes).state_dict()
    _check(renamed, expected, f"this is no official checkpoint of Mobile-Former-{arch}")
    return renamed


def read_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint file without running code from it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything but tensors and plain data, or is no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist: give a local file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"checkpoint {path} is damaged or holds more than tensors and plain data, so it is not "
            f"loaded ({reason})"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(
            f"checkpoint {path} is not a PyTorch file or is damaged: fetch it again"
        ) from error


def _unwrap(checkpoint: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without ``module.`` in front of its keys."""
    for _ in range(2):
        for wrapper in _WRAPPERS:
            if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(wrapper), Mapping):
                checkpoint = checkpoint[wrapper]
                break
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError(f"checkpoint {path} holds no state dict: give a file with the weights")
    state_dict = {str(key): value for key, value in checkpoint.items()}
    if all(key.startswith("module.") for key in state_dict):
        state_dict = {key[len("module.") :]: value for key, value in state_dict.items()}
    if not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ValueError(f"checkpoint {path} holds no state dict: give a file with the weights")
    return state_dict


def load_pretrained_backbone(backbone: MobileFormer, path: str | Path) -> None:
    """Load a backbone from an official ImageNet checkpoint, or a detector's or backbone's of ours.

    Whatever is not the backbone (classifier, detection head) is dropped, and so are blocks that
    ``out_indices`` left out; every key of the backbone must be there with its shape.

    Args:
        backbone: Filled in place.
        path: A local file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is unsafe or damaged, or a key is missing, unknown or misshapen.
    """
    state_dict = _unwrap(read_checkpoint(path), path)
    if is_official(state_dict):
        state_dict = _rename_official(state_dict, get_arch(backbone.arch))
    if any(key.startswith("backbone.") for key in state_dict):
        state_dict = {
            key[len("backbone.") :]: value
            for key, value in state_dict.items()
            if key.startswith("backbone.")
        }
    built = len(backbone.blocks)
    state_dict = {
        key: value
        for key, value in state_dict.items()
        if not (key.startswith("blocks.") and int(key.split(".")[1]) >= built)
    }
    what = f"checkpoint {path} does not fit the backbone Mobile-Former-{backbone.arch}"
    _check(state_dict, backbone.state_dict(), what)
    backbone.load_state_dict(state_dict)
