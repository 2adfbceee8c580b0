"""Compiled kernels of the folded model on CPUs; see mmdet_mobileformer/deploy."""

from .build import kernels_available, kernels_loaded, why_no_kernels
from .packing import LANES, pack_depthwise, pack_matrix, padded

__all__ = [
    "LANES",
    "kernels_available",
    "kernels_loaded",
    "pack_depthwise",
    "pack_matrix",
    "padded",
    "why_no_kernels",
]
