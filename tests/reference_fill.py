"""Deterministic weights and images, by the rule under which the golden values were computed.

Each tensor's random numbers follow from its official key and a seed, so that the same model is
filled anywhere, whatever its own names are.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from mmdet_mobileformer import MobileFormerClassifier
from mmdet_mobileformer.archs import get_arch
from mmdet_mobileformer.checkpoint import _layer_names


def generator(seed: int, key: str) -> np.random.Generator:
    """Random numbers of one tensor."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{key}".encode())))


def fill(key: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Value of one official key."""
    rng = generator(seed, key)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean") or len(shape) == 1:
        value = 0.1 * rng.standard_normal(shape)
    elif key == "tokens.weight":
        value = rng.standard_normal(shape)
    else:
        gain = 0.7 if len(shape) == 4 else 1.0
        value = rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value).astype(np.float32))


def official_state_dict(arch: str, seed: int = 0) -> dict[str, Tensor]:
    """A filled state dict under official keys, its shapes those of our classifier."""
    theirs = {ours: name for name, ours in _layer_names(get_arch(arch)).items()}
    theirs["backbone"] = "tokens"
    filled = {}
    for key, value in MobileFormerClassifier(arch).state_dict().items():
        layer, _, leaf = key.rpartition(".")
        official = "tokens.weight" if key == "backbone.tokens" else f"{theirs[layer]}.{leaf}"
        filled[official] = fill(official, tuple(value.shape), seed)
    return filled


def image(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """The image of the golden cases."""
    return torch.from_numpy(generator(seed, "image").standard_normal(shape).astype(np.float32))
