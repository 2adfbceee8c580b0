"""What is left of a model when training is over: its config and its weights (ours).

Denoising queries, further groups and dense auxiliary heads exist in training only. Here they are
taken off, so that a model that is shipped or counted has what inference reads and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

#: Arguments of the training types, by type, and the type that predicts the same without them.
_TRAINING = {
    "E2EMFTrainingHead": ("E2EMFHead", ("denoising", "groups", "near", "near_classes")),
    "E2EMFWithAuxiliary": ("E2EMF", ("aux_neck", "aux_head", "aux_weight", "dense_first")),
}
#: Beginnings of the keys of weights that only training reads.
TRAINED_WITH = ("aux_neck.", "aux_head.", "bbox_head.denoising.", "bbox_head.group_queries.")


def inference_model(model: Any) -> Any:
    """A copy of a model's config without what only training uses; others come back unchanged."""
    return _plain(copy.deepcopy(model))


def inference_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that :func:`inference_model` has."""
    return {key: value for key, value in state.items() if not key.startswith(TRAINED_WITH)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("type") in _TRAINING:
            kind, arguments = _TRAINING[value["type"]]
            value["type"] = kind
            for name in arguments:
                value.pop(name, None)
        for key in value:
            value[key] = _plain(value[key])
    elif isinstance(value, list):
        return [_plain(item) for item in value]
    return value
