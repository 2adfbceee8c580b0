"""Few parameter groups for mmengine's `paramwise_cfg`."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, then one group for all parameters with the same settings.

    mmengine makes a group of every parameter as soon as there is a `paramwise_cfg`. A fused or
    foreach optimizer then works tensor by tensor, which on small models costs more than its
    arithmetic. Arguments and `paramwise_cfg` are mmengine's.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: Any, prefix: str = "", **kwargs: Any
    ) -> None:
        """Fill ``params`` with the groups of ``module``; called for every submodule too."""
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return
        merged: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
        for group in params:
            settings = {key: value for key, value in group.items() if key != "params"}
            same = merged.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})
            same["params"] += group["params"]
        params[:] = merged.values()
