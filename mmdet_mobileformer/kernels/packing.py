"""Weights in the order in which the compiled kernels read them; gemm.h and activation.h say why."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Channels are padded to multiples of this.
LANES = 16
#: Columns of a panel of a packed matrix.
PANEL = 32


def padded(channels: int) -> int:
    """The next multiple of :data:`LANES`."""
    return -(-channels // LANES) * LANES


def pack_vector(vector: Tensor) -> Tensor:
    """(C,) with zeros up to a multiple of :data:`LANES`."""
    return F.pad(vector, (0, padded(len(vector)) - len(vector)))


def pack_matrix(weight: Tensor) -> Tensor:
    """Weight (out, in) of a linear layer to panels of 32 outputs, each with its inputs in turn."""
    columns = pack_vector(weight[:, 0]).new_zeros(weight.shape[1], padded(weight.shape[0]))
    columns[:, : weight.shape[0]] = weight.t()
    return torch.cat([panel.reshape(-1) for panel in columns.split(PANEL, dim=1)])


def pack_depthwise(weight: Tensor, bias: Tensor) -> Tensor:
    """Filters (filters, C, 3, 3) and biases (filters, C) to (filters, blocks of C, 10, LANES)."""
    filters, channels = bias.shape
    taps = torch.cat((weight.flatten(2), bias.unsqueeze(2)), dim=2)
    taps = F.pad(taps, (0, 0, 0, padded(channels) - channels))
    return taps.unflatten(1, (-1, LANES)).transpose(2, 3).contiguous().view(filters, -1, 10, LANES)
