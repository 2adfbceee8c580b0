"""Compiled kernels on CPUs: of the folded model (deploy/) and of training (layers/fused.py)."""

from .build import kernels_available, kernels_loaded, use_kernels_on_cpu, why_no_kernels
from .packing import LANES, pack_depthwise, pack_matrix, padded

__all__ = [
    "LANES",
    "kernels_available",
    "kernels_loaded",
    "pack_depthwise",
    "pack_matrix",
    "padded",
    "use_kernels_on_cpu",
    "why_no_kernels",
]
