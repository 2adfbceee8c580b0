"""A quick optimizer step: few parameter groups, and all parameters in one pass on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, then one group for all parameters with the same settings.

    mmengine makes a group of every parameter as soon as there is a `paramwise_cfg`. A fused or
    foreach optimizer then works tensor by tensor, which on small models costs more than its
    arithmetic. Arguments and `paramwise_cfg` are mmengine's.

    On CPUs torch's optimizers go over the parameters one operation after the other unless they are
    told to be ``fused``: where this torch can, and the config says nothing, they are.
    """

    def __call__(self, model: Any) -> Any:
        """The optimizer wrapper of a model."""
        settings: dict[str, Any] = self.optimizer_cfg  # type: ignore[has-type]
        on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
        if on_cpu and not {"fused", "foreach"} & set(settings) and _can_fuse(settings["type"]):
            self.optimizer_cfg = {**settings, "fused": True}
        return super().__call__(model)

    def add_params(
        self, params: list[dict[str, Any]], module: Any, prefix: str = "", **kwargs: Any
    ) -> None:
        """Fill ``params`` with the groups of ``module``; called for every submodule too."""
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return
        if self.optimizer_cfg["type"] == "MuonAdamW":
            # Tables of vectors, not matrices that map anything.
            tables = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding)}
            for group in params:
                if any(id(parameter) in tables for parameter in group["params"]):
                    group["muon"] = False
        merged: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
        for group in params:
            settings = {key: value for key, value in group.items() if key != "params"}
            same = merged.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})
            same["params"] += group["params"]
        params[:] = merged.values()


def _can_fuse(name: Any) -> bool:
    """Whether torch has a fused optimizer of this name for CPUs (since 2.4)."""
    kind = OPTIMIZERS.get(name) if isinstance(name, str) else None
    try:
        kind([torch.zeros(1, requires_grad=True)], lr=0.1, fused=True)  # type: ignore[misc]
    except (TypeError, RuntimeError):
        return False
    return True
