"""Every Hungarian assigner of a config survives costs which are NaN or infinite (ours)."""

from __future__ import annotations

from typing import Any

from .resume import type_name


def use_finite_assigner(value: Any) -> None:
    """Put this assigner in place of every HungarianAssigner below a model's config, in place."""
    if isinstance(value, dict):
        if type_name(value) == "HungarianAssigner":
            value["type"] = "FiniteHungarianAssigner"
        for item in value.values():
            use_finite_assigner(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            use_finite_assigner(item)
