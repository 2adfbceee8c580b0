"""Operators that an ONNX tracer would freeze or refuse, in terms of ones that it states exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def pooling_matrix(size: Any, out_size: Any) -> Tensor:
    """Adaptive average pooling of one axis as a matrix, made from sizes known at run time only.

    Row i averages the cells from floor(i * size / out_size) to before ceil((i + 1) * size /
    out_size), which is PyTorch's rule.

    Args:
        size: Cells of the input; an int, or in a trace a tensor.
        out_size: Cells of the output.

    Returns:
        (out_size, size) float32.
    """
    row = torch.arange(out_size).unsqueeze(1)
    cell = torch.arange(size).unsqueeze(0)
    first = row * size // out_size
    # Not -(-a // b): ONNX rounds towards zero.
    end = ((row + 1) * size + out_size - 1) // out_size
    inside = ((cell >= first) & (cell < end)).to(torch.float32)
    return inside / (end - first).to(torch.float32)


def adaptive_avg_pool2d(x: Tensor, output_size: Sequence[Any]) -> Tensor:
    """As torch's, (N, C, H, W) to (N, C, H', W'), by two products."""
    rows = pooling_matrix(x.shape[-2], output_size[0])
    columns = pooling_matrix(x.shape[-1], output_size[1])
    return rows @ x @ columns.transpose(0, 1)


def unflatten(x: Tensor, dim: int, sizes: Sequence[Any]) -> Tensor:
    """As torch's; its own enters a trace with the sizes of the example."""
    dim = dim % x.dim()
    before = [x.shape[k] for k in range(dim)]
    after = [x.shape[k] for k in range(dim + 1, x.dim())]
    return x.reshape([*before, *sizes, *after])


class ExactOperators(TorchFunctionMode):
    """Inside this context models call the functions above instead of torch's."""

    _REPLACED: dict[Any, Callable[..., Tensor]] = {
        F.adaptive_avg_pool2d: adaptive_avg_pool2d,
        torch.Tensor.unflatten: unflatten,
    }

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._REPLACED.get(func, func)(*args, **(kwargs or {}))
