"""Steps of a folded model by torch's operators, in the form that exported files run fast.

Measured with ONNX Runtime and OpenVINO on their own profiles, in which copies between layouts,
splits and concatenations of large maps took more time than what they are for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Heads times tokens up to which all heads share one product with zeros between them. It multiplies
#: heads times as much, but needs no copy of the map that is split into heads.
FEW = 32


def activate(x: Tensor, kind: str) -> Tensor:
    """An activation without parameters."""
    if kind == "relu6":
        return F.relu6(x)
    return F.relu(x) if kind == "relu" else x


def dynamic_relu(x: Tensor, table: Tensor | None, mixture: Tensor | None) -> Tensor:
    """``max(a1 * x, a2 * x)`` with slopes mixed at every position.

    Args:
        x: Map (N, H, W, C).
        table: Both slopes of each token, (N, T, 2, C); None leaves the map as it is.
        mixture: Shares of the tokens (N, H*W, T); None for one token.

    Returns:
        (N, H, W, C).
    """
    if table is None:
        return x
    # Two products: the halves of one would be copied apart.
    first, second = table.unbind(dim=2)
    if mixture is None:
        first, second = first.unsqueeze(2), second.unsqueeze(2)
    else:
        grid = (x.shape[1], x.shape[2])
        first, second = ((mixture @ part).unflatten(1, grid) for part in (first, second))
    return torch.maximum(first * x, second * x)


def read(flat: Tensor, located: Tensor, heads: int, keys: Tensor, values: Tensor) -> Tensor:
    """What features read from tokens (Mobile←Former).

    Args:
        flat: Features (N, L, C).
        located: The same with their position.
        heads: Heads of the attention.
        keys, values: Of the tokens, (N, T, C); the keys scaled.

    Returns:
        (N, L, C), to be added to the features.
    """
    tokens = int(keys.shape[1])
    if heads * tokens > FEW:
        scores = _heads(located, heads) @ _heads(keys, heads).transpose(-1, -2)
        update = scores.softmax(dim=-1) @ _heads(values, heads)
        return update.transpose(1, 2).flatten(2)
    scores = located @ _apart(keys, heads).transpose(1, 2)
    shares = scores.unflatten(-1, (heads, tokens)).softmax(dim=-1)
    return shares.flatten(2) @ _apart(values, heads)


def gather(
    flat: Tensor,
    located: Tensor,
    heads: int,
    queries: Tensor,
    looks: Tensor | None,
    mask: Tensor | None,
    told: int = 0,
) -> Tensor:
    """What tokens gather from features (Mobile→Former).

    Args:
        flat: Features (N, L, C).
        located: The same with their position.
        heads: Heads of the attention.
        queries: Of the tokens, scaled, (N, T, C).
        looks: Added to the scores, (N, heads, T, L), or None; of the told heads one stands for all.
        mask: True where a feature is padding, (N, H, W), or None.
        told: How many heads, the first, read by their looks alone, which are the same.

    Returns:
        (N, T, C).
    """
    if told and looks is not None:
        first = told * (int(queries.shape[2]) // heads)
        scores = looks[:, 0]
        if mask is not None:
            scores = scores.masked_fill(mask.flatten(1)[:, None], float("-inf"))
        read = scores.softmax(dim=-1) @ flat[..., :first]
        asked = gather(
            flat[..., first:], located[..., first:], heads - told, queries[..., first:], looks[:, 1:], mask
        )
        return torch.cat((read, asked), dim=-1)
    tokens, channels = (int(size) for size in queries.shape[1:])
    few = heads * tokens <= FEW
    if few:
        scores = (located @ _apart(queries, heads).transpose(1, 2)).transpose(1, 2)
        scores = scores.unflatten(1, (heads, tokens))
    else:
        scores = _heads(queries, heads) @ _heads(located, heads).transpose(-1, -2)
    if looks is not None:
        scores = scores + looks
    if mask is not None:
        scores = scores.masked_fill(mask.flatten(1)[:, None, None], float("-inf"))
    if not few:
        return (scores.softmax(dim=-1) @ _heads(flat, heads)).transpose(1, 2).flatten(2)
    # Every head gathers all channels, of which its own are kept.
    attended = (scores.flatten(1, 2).softmax(dim=-1) @ flat).unflatten(1, (heads, tokens))
    return (attended * _own(heads, channels, flat)).sum(dim=1)


def mean_scores(located: Tensor, heads: int, queries: Tensor) -> Tensor:
    """Mean over the heads of the scores of :func:`gather`, (N, L, T), before looks and mask."""
    return located @ (queries.transpose(1, 2) / heads)


def _own(heads: int, channels: int, like: Tensor) -> Tensor:
    """Which channels are each head's: (heads, 1, C) of 0 and 1."""
    eye = torch.eye(heads, dtype=like.dtype, device=like.device)
    return eye.repeat_interleave(channels // heads, dim=1).unsqueeze(1)


def _apart(x: Tensor, heads: int) -> Tensor:
    """(N, T, C) to (N, heads * T, C): the channels of one head, and zeros."""
    return (x.unsqueeze(1) * _own(heads, int(x.shape[2]), x)).flatten(1, 2)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, C) to (N, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
