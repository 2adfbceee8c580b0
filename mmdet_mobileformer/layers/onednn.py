"""Matrix products by oneDNN (ours).

torch multiplies float32 matrices by MKL, which on AMD's CPUs leaves AVX-512 unused. oneDNN, which computes
torch's convolutions, uses it; on Intel's CPUs both do.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_onednn() -> bool:
    """Whether this torch has oneDNN's product, an operator of torch.compile."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.T + bias``, (..., K) with (N, K) and (N) to (..., N); float32 on the CPU, any strides."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return result
