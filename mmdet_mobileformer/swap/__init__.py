"""Any mmdet detector on Mobile-Former: rewriting its config, and seeing that the result works."""

from __future__ import annotations

from .common import SwapRefusedError
from .rewrite import swap_backbone

__all__ = ["SwapRefusedError", "swap_backbone"]
