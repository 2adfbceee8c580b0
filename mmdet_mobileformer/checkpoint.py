"""Official ImageNet checkpoints, safe reading, and strict loading of a backbone from a file.

The key names of the official code are facts of its checkpoints; the layout here is ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .archs import ARCHS, Arch, get_arch
from .backbone import MobileFormer, MobileFormerClassifier
from .stack import safe_load

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
#: What training scripts put around a state dict, the plain weights before their moving average.
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")
#: What DistributedDataParallel and torch.compile put in front of its keys.
_PREFIXES = ("module.", "_orig_mod.")


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


@cache
def official_shapes(arch: str, num_classes: int = 1000) -> Mapping[str, tuple[int, ...]]:
    """Keys and shapes of an official checkpoint.

    Raises:
        ValueError: If the arch is unknown.
    """
    theirs = {ours: name for name, ours in _layer_names(get_arch(arch)).items()}
    with torch.device("meta"):
        ours = MobileFormerClassifier(arch, num_classes=num_classes).state_dict()
    shapes = {}
    for key, value in ours.items():
        layer, _, leaf = key.rpartition(".")
        name = "tokens.weight" if key == "backbone.tokens" else f"{theirs[layer]}.{leaf}"
        shapes[name] = tuple(value.shape)
    return shapes


def _differences(found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> str:
    """How names and shapes differ, the first few of each kind; empty if they agree."""
    problems = []
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    misshapen = [
        f"{key} is {tuple(found[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    for word, keys in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            problems.append(f"{len(keys)} keys are {word} ({', '.join(keys[:3])}{more})")
    return "; ".join(problems)


def is_official(state_dict: Mapping[str, Any]) -> bool:
    """Whether the keys are those of the official code."""
    return "tokens.weight" in state_dict and any(k.startswith("features.") for k in state_dict)


def count_classes(state_dict: Mapping[str, Tensor]) -> int:
    """Classes of an official state dict's classifier; ImageNet's 1000 where it has none."""
    bias = state_dict.get("classifier.classifier.1.bias")
    return 1000 if bias is None or bias.dim() != 1 else bias.shape[0]


def recognise_arch(state_dict: Mapping[str, Tensor]) -> str:
    """The arch whose official keys and shapes these are; any number of classes will do.

    Args:
        state_dict: Official keys and values, unwrapped.

    Raises:
        ValueError: If they are of no arch; the sentence names the nearest and what differs.
    """
    classes, agreement = count_classes(state_dict), {}
    for arch in ARCHS:
        expected = official_shapes(arch, classes)
        agreement[arch] = sum(
            key in state_dict and tuple(state_dict[key].shape) == shape
            for key, shape in expected.items()
        )
        if agreement[arch] == len(expected) == len(state_dict):
            return arch
    nearest = max(agreement, key=lambda arch: agreement[arch])
    if not agreement[nearest]:
        first = ", ".join(list(state_dict)[:3])
        raise ValueError(f"these are no weights of an official Mobile-Former (keys: {first} ...)")
    raise ValueError(
        "these weights fit no Mobile-Former; of the nearest, "
        f"{nearest}, {_differences(state_dict, official_shapes(nearest, classes))}"
    )


def _rename_official(state_dict: Mapping[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Official keys to ours; keys of no known layer keep their name, for a check to report."""
    layers = _layer_names(arch)
    renamed = {}
    for key, value in state_dict.items():
        layer, _, leaf = key.rpartition(".")
        if key == "tokens.weight":
            renamed["backbone.tokens"] = value
        else:
            renamed[f"{layers[layer]}.{leaf}" if layer in layers else key] = value
    return renamed


def convert_official_state_dict(state_dict: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Convert an official ImageNet state dict to that of :class:`MobileFormerClassifier`.

    Args:
        state_dict: Official keys and values, unwrapped.
        arch: The arch it is of; :func:`recognise_arch` finds it.

    Returns:
        The same tensors under our names: ``backbone.*`` and ``head.*``.

    Raises:
        ValueError: If the arch is unknown, or a key is missing, unknown or misshapen.
    """
    spec = get_arch(arch)
    problems = _differences(state_dict, official_shapes(arch, count_classes(state_dict)))
    if problems:
        raise ValueError(f"this is no official checkpoint of Mobile-Former-{arch}: {problems}")
    return _rename_official(state_dict, spec)


def read_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint file without running code from it.

    Args:
        path: A local file, ``.safetensors`` or what ``torch.save`` writes.

    Returns:
        What the file holds; of a ``.safetensors`` file the state dict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything but tensors and plain data, or is no checkpoint, or is
            ``.safetensors`` and that package is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist: give a local file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with _allow_plain_types():
            return safe_load(path)
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


def _allow_plain_types() -> AbstractContextManager[Any]:
    """Allow argparse's Namespace, in which timm and other training scripts keep their flags.

    It only holds attributes: reading one runs no code. torch < 2.5 has no such list to extend for a
    while, and refuses these files.
    """
    safe_globals = getattr(torch.serialization, "safe_globals", None)
    return nullcontext() if safe_globals is None else safe_globals([argparse.Namespace])


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            f"checkpoint {path} needs the package safetensors: pip install safetensors"
        ) from error
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"checkpoint {path} is not a safetensors file or is damaged ({error}): fetch it again"
        ) from error
    return tensors


class Unwrapped(NamedTuple):
    """A state dict and what stood around it.

    Attributes:
        state_dict: Keys without prefixes of training scripts.
        taken: Name of the entry that held it; empty for a file that is a state dict itself.
        dropped: Names of the other entries.
    """

    state_dict: dict[str, Tensor]
    taken: str
    dropped: list[str]


def unwrap(checkpoint: Any, path: str | Path, ema: bool = False) -> Unwrapped:
    """Find the state dict inside a checkpoint and take what training scripts added off its keys.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        path: The file, for the sentence of an error.
        ema: Take the moving average of the weights, not the plain ones.

    Raises:
        ValueError: If there is no state dict, or no moving average where that is asked for.
    """
    names = [name for name in _WRAPPERS if not ema or name.endswith("_ema")]
    taken, dropped = "", []
    for _ in range(2):  # {'model': {'state_dict': ...}} is two deep
        found = [n for n in names if isinstance(checkpoint, Mapping) and n in checkpoint]
        found = [n for n in found if isinstance(checkpoint[n], Mapping)]
        if not found:
            break
        taken = found[0]
        dropped += [str(key) for key in checkpoint if key != taken]
        checkpoint, names = checkpoint[taken], list(_WRAPPERS)
    if ema and not taken:
        raise ValueError(f"checkpoint {path} holds no moving average: leave --ema out")
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError(f"checkpoint {path} holds no state dict: give a file with the weights")
    state_dict = {str(key): value for key, value in checkpoint.items()}
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state_dict)), ""):
        state_dict = {key[len(prefix) :]: value for key, value in state_dict.items()}
    if not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ValueError(f"checkpoint {path} holds no state dict: give a file with the weights")
    return Unwrapped(state_dict, taken, dropped)


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
    state_dict = unwrap(read_checkpoint(path), path).state_dict
    what = f"checkpoint {path} does not fit the backbone Mobile-Former-{backbone.arch}"
    if is_official(state_dict):
        arch = _recognise_or(state_dict, backbone.arch)
        if arch != backbone.arch:
            raise ValueError(f"{what}: it holds Mobile-Former-{arch}, so give another file or arch")
        state_dict = _rename_official(state_dict, get_arch(arch))
    if any(key.startswith("backbone.") for key in state_dict):
        state_dict = {
            key[len("backbone.") :]: value
            for key, value in state_dict.items()
            if key.startswith("backbone.")
        }
    total = len(get_arch(backbone.arch).blocks)
    left_out = tuple(f"blocks.{index}." for index in range(len(backbone.blocks), total))
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith(left_out)}
    expected = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    problems = _differences(state_dict, expected)
    if problems:
        raise ValueError(f"{what}: {problems}")
    backbone.load_state_dict(state_dict)


def _recognise_or(state_dict: Mapping[str, Tensor], arch: str) -> str:
    """The arch of official weights; the given one where they are of none, for a check to report."""
    try:
        return recognise_arch(state_dict)
    except ValueError:
        return arch
