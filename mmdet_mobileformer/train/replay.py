"""A training step in a file, to be run again: the batch, the weights and the random generators (ours).

The file holds tensors and plain data only, so it is read as safely as a checkpoint.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from .assign import use_finite_assigner
from .checkpoint_hook import write_atomically
from .examine import Finding, examine
from .safe_loading import read_file
from .sampling import restore_generators

_KIND = "mmdet_mobileformer.replay"
_ELEMENTS = {"DetDataSample": DetDataSample, "InstanceData": InstanceData, "PixelData": PixelData}


def pack(value: Any) -> Any:
    """A batch as tensors and plain data; what is neither, nor known here, becomes its text."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return dict(kind="array", value=torch.from_numpy(np.ascontiguousarray(value)))
    if isinstance(value, BaseBoxes):
        return dict(kind="boxes", value=value.tensor.detach().cpu())
    if isinstance(value, BitmapMasks):
        size = (value.height, value.width)
        return dict(kind="masks", value=torch.from_numpy(value.masks.copy()), size=size)
    if isinstance(value, BaseDataElement):
        return dict(
            kind=type(value).__name__,
            meta={key: pack(item) for key, item in value.metainfo_items()},
            fields={key: pack(item) for key, item in value.items()},
        )
    if isinstance(value, dict):
        return dict(kind="dict", value=[(pack(key), pack(item)) for key, item in value.items()])
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(pack(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    plain = value is None or isinstance(value, (bool, int, float, str, bytes))
    return value if plain else str(value)


def unpack(value: Any) -> Any:
    """The opposite of :func:`pack`."""
    if isinstance(value, (list, tuple)):
        return type(value)(unpack(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value["kind"]
    if kind == "dict":
        return {unpack(key): unpack(item) for key, item in value["value"]}
    if kind == "array":
        return value["value"].numpy()
    if kind == "boxes":
        return HorizontalBoxes(value["value"])
    if kind == "masks":
        return BitmapMasks(value["value"].numpy(), *value["size"])
    element = _ELEMENTS[kind](metainfo={key: unpack(item) for key, item in value["meta"].items()})
    for key, item in value["fields"].items():
        setattr(element, key, unpack(item))
    return element


def save_step(
    file: Path, model: nn.Module, batch: Any, generators: dict[str, Any], **info: Any
) -> None:
    """Write a step for :func:`replay`.

    Args:
        file: Where to.
        model: With the weights before the step.
        batch: As the data loader gave it.
        generators: The states of the random generators before the step.
        info: Plain values for whoever reads the file, such as the iteration.

    Raises:
        OSError: if the file cannot be written.
    """
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    buffer = io.BytesIO()
    content = dict(kind=_KIND, info=info, state_dict=state, batch=pack(batch))
    torch.save(dict(content, generators=pack(generators)), buffer)
    write_atomically(file, buffer.getvalue())


def replay(cfg: Any, file: Path | str, device: str = "cpu") -> tuple[dict[str, Any], Finding]:
    """Run the step of a file again: forward and backward, without changing any weight.

    Args:
        cfg: The config of the run.
        file: What the stopped run saved.
        device: Where to run; the CPU by default.

    Returns:
        What the run wrote down beside the batch, and what is found now.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of a stopped run, or does not fit the config's model.
    """
    content = read_file(file)
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise ValueError(f"{file} holds no saved step: give the file that a stopped run names")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    use_finite_assigner(cfg.model)
    model = MODELS.build(cfg.model)
    try:
        model.load_state_dict(content["state_dict"], strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} does not fit the config's model: {reason}") from error
    model.to(device).train()
    restore_generators(unpack(content["generators"]))
    info = content["info"]
    precision = getattr(torch, info["autocast"] or "bfloat16")
    context = torch.autocast(
        torch.device(device).type, dtype=precision, enabled=info["autocast"] is not None
    )
    return info, examine(model, unpack(content["batch"]), context)
