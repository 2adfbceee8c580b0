"""Former and the two bridges (paper section 3.2), shared by the backbone and the head.

The backbone calls them without positions. The head of E2E-MF (reconstructed) adds the position of
the queries (``query_pos``) and of the features (``pos``) where they are queries or keys, never to
values.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .drop import Dropout, DropPath
from .linear import Linear, linear


def _add(x: Tensor, pos: Tensor | None) -> Tensor:
    return x if pos is None else x + pos


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, C) to (N, heads, L, C/heads), in one piece: torch's batched product is slow without."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()


def _merge_heads(x: Tensor) -> Tensor:
    """(N, heads, L, c) to (N, L, heads*c)."""
    return x.transpose(1, 2).flatten(2)


def _map_to_heads(x: Tensor, heads: int) -> Tensor:
    """Feature map (N, C, H, W) to (N, heads, C/heads, H*W)."""
    return x.flatten(2).unflatten(1, (heads, -1))


def _map_to_sequence(x: Tensor, heads: int) -> Tensor:
    """Feature map (N, C, H, W) to (N, heads, H*W, C/heads), in one piece."""
    return _map_to_heads(x, heads).transpose(-1, -2).contiguous()


def _made_again(
    *made: tuple[Tensor, Callable[[Tensor], Tensor]], source: Tensor
) -> AbstractContextManager[Any]:
    """Let autograd keep ``source`` in place of each tensor that was made of it by a function."""
    if not torch.is_grad_enabled():
        return nullcontext()
    makers = {(tensor.untyped_storage()._cdata, tensor.shape): make for tensor, make in made}
    source = source.detach()

    def pack(tensor: Tensor) -> Tensor | Callable[[Tensor], Tensor]:
        return makers.get((tensor.untyped_storage()._cdata, tensor.shape), tensor)

    def unpack(kept: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept(source)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _questions(layer: Linear, x: Tensor, told: int) -> Tensor:
    """A layer's outputs but for the first ``told`` channels, (N, L, C) to (N, L, C' - told)."""
    return linear(x, layer.weight[told:], layer.bias[told:]) if told else layer(x)


@dataclass
class Look:
    """Where heads of Mobile→Former look whatever the features are.

    Attributes:
        queries: Further queries (N, heads that ask, T, k), whose product with the keys is added to the
            scores.
        keys: Their keys (N or 1, 1, k, H*W).
        shares: What the told heads read, all alike: weights (N, T, H*W) that sum to one; None if there
            are no such heads.
    """

    queries: Tensor
    keys: Tensor
    shares: Tensor | None = None


class MobileToFormer(nn.Module):
    """Mobile→Former: tokens gather from the feature map.

    Keys and values are the raw features; the tokens are projected to queries, the attended vector
    is gated by the tokens, projected back and added to them, then LayerNorm (post-norm).

    Args:
        channels: Channels C of the features.
        token_dim: Width d of a token.
        num_heads: Heads; 2 in the backbone, 8 in the head.
        dropout: Dropout of the residual branch.
        drop_path: Probability of dropping the residual branch per sample.
        with_logits: Whether :meth:`forward` returns its logits. Without them torch's fused attention
            can do, which does not store the scores of all positions.
        told: How many heads, the first, do not ask: they read where ``look`` of :meth:`forward` tells them to.

    Raises:
        ValueError: If there are logits and heads that do not ask, which have none, or no head asks.
    """

    def __init__(
        self,
        channels: int,
        token_dim: int,
        num_heads: int = 2,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        with_logits: bool = True,
        told: int = 0,
    ) -> None:
        super().__init__()
        if told >= num_heads or (told and with_logits):
            raise ValueError(
                f"MobileToFormer got told={told} of {num_heads} heads: one at least has to ask, and all "
                "where logits are wanted"
            )
        self.num_heads = num_heads
        self.with_logits = with_logits
        self.told = told
        self.scale = (channels // num_heads) ** -0.5
        self.query = Linear(token_dim, channels)
        self.gate = Linear(token_dim, channels)
        self.out = Linear(channels, token_dim)
        self.dropout = Dropout(dropout)
        self.drop_path = DropPath(drop_path)
        self.norm = nn.LayerNorm(token_dim)

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        pos: Tensor | None = None,
        query_pos: Tensor | None = None,
        look: Look | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Let the tokens read the features.

        Args:
            x: Features (N, C, H, W).
            tokens: (N, T, d).
            mask: Padding mask (N, H, W), True where padded: such positions get no attention.
            pos: Position of the features (N, C, H, W), added to the keys.
            query_pos: Position of the tokens (N, T, d), added where they are queried by.
            look: Where the heads look whatever the features are.

        Returns:
            New tokens (N, T, d) and the scaled logits (N, heads, T, H, W) before the softmax over
            positions (unmasked), which the spatial-aware dynamic ReLU reads; None if not
            ``with_logits``.
        """
        located = _add(tokens, query_pos)
        first = self.told * (x.shape[1] // self.num_heads)
        query = _questions(self.query, located, first) * self.scale
        query = _split_heads(query, self.num_heads - self.told)
        logits: Tensor | None = None
        if self.with_logits:
            attended, logits = self._attend(query, x, mask, pos, look)
        elif look is None or look.shares is None:
            attended = self._attend_fused(query, x, mask, pos, look)
        else:
            told, asked = x.split((first, x.shape[1] - first), dim=1)
            pos = None if pos is None else pos[:, first:]
            # All of them have the same weights: one product, and nothing to learn where they look.
            gathered = told.flatten(2) @ look.shares.to(told.dtype).transpose(1, 2)
            attended = self._attend_fused(query, asked, mask, pos, look)
            attended = torch.cat((gathered.transpose(1, 2), attended), dim=-1)
        gated = attended * (2 * F.hardsigmoid(self.gate(located)))
        update = self.drop_path(self.dropout(self.out(gated)))
        return self.norm(tokens + update), logits

    def _attend(
        self,
        query: Tensor,
        x: Tensor,
        mask: Tensor | None,
        pos: Tensor | None,
        look: Look | None,
    ) -> tuple[Tensor, Tensor]:
        """Attended vectors (N, T, C) and the logits."""
        logits = query @ _map_to_heads(_add(x, pos), self.num_heads)
        scores = logits
        if look is not None:
            scores = scores + (look.queries @ look.keys).to(scores.dtype)
        if mask is not None:
            scores = scores.masked_fill(mask.flatten(1)[:, None, None], float("-inf"))
        attended = scores.softmax(dim=-1) @ _map_to_heads(x, self.num_heads).transpose(-1, -2)
        return _merge_heads(attended), logits.unflatten(-1, x.shape[-2:])

    def _attend_fused(
        self,
        query: Tensor,
        x: Tensor,
        mask: Tensor | None,
        pos: Tensor | None,
        look: Look | None,
    ) -> Tensor:
        """Attended vectors alone, of the heads that ask, from their channels of the features."""
        heads, width = query.shape[1], query.shape[-1]
        if look is not None:
            query = torch.cat((query, look.queries.to(query.dtype)), dim=-1)

        def make_key(x: Tensor) -> Tensor:
            key = _map_to_sequence(_add(x, pos), heads)
            if look is None:
                return key
            # The look's scores come from further channels of queries and keys.
            further = look.keys.transpose(-1, -2).to(key.dtype)
            return torch.cat((key, further.expand(*key.shape[:-1], -1)), dim=-1)

        def make_value(x: Tensor) -> Tensor:
            value = _map_to_sequence(x, heads)
            return value if look is None else F.pad(value, (0, look.keys.shape[-2]))

        valid = None if mask is None else ~mask.flatten(1)[:, None, None]
        key, value = make_key(x), make_value(x)
        with _made_again((key, make_key), (value, make_value), source=x):
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=valid, scale=1.0)
        return _merge_heads(attended[..., :width])


class Former(nn.Module):
    """Former: self-attention among the tokens, then an FFN, both post-norm.

    One projection for the queries; keys and values are the raw tokens.

    Args:
        token_dim: Width d of a token.
        num_heads: Heads; 4 in the backbone, 8 in the head.
        ffn_dim: Hidden width of the FFN (GELU).
        dropout: Dropout of both residual branches and of the FFN's hidden layer.
        drop_path: Probability of dropping the attention branch per sample; the FFN is kept.
        told: How many heads, the first, do not ask: they read what ``shares`` of :meth:`forward` tells them to.

    Raises:
        ValueError: If no head asks.
    """

    def __init__(
        self,
        token_dim: int,
        num_heads: int = 4,
        ffn_dim: int = 384,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        told: int = 0,
    ) -> None:
        super().__init__()
        if told >= num_heads:
            raise ValueError(f"Former got told={told} of {num_heads} heads: one at least has to ask")
        self.num_heads = num_heads
        self.told = told
        self.scale = (token_dim // num_heads) ** -0.5
        self.query = Linear(token_dim, token_dim)
        self.out = Linear(token_dim, token_dim)
        self.norm = nn.LayerNorm(token_dim)
        self.fc1 = Linear(token_dim, ffn_dim)
        self.fc2 = Linear(ffn_dim, token_dim)
        self.ffn_norm = nn.LayerNorm(token_dim)
        self.dropout = Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        tokens: Tensor,
        query_pos: Tensor | None = None,
        apart: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> Tensor:
        """(N, T, d) to (N, T, d).

        ``query_pos`` (N, T, d) is added to queries and keys. ``apart`` (T, T) is True where a token
        may not read another. ``shares`` (N, T, T) are the weights of the heads that are told; of a row
        that sums to less than one the rest is nothing that is read. How much is read is added to what is.
        """
        located = _add(tokens, query_pos)
        first = self.told * (tokens.shape[-1] // self.num_heads)
        query, key, value = (
            _split_heads(part, self.num_heads - self.told)
            for part in (
                _questions(self.query, located, first) * self.scale,
                located[..., first:],
                tokens[..., first:],
            )
        )
        mask = None if apart is None else ~apart
        attended = _merge_heads(
            F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        )
        if shares is not None:
            # Values are raw tokens, of which none tells that there is something to read.
            read = shares.to(tokens.dtype) @ (tokens[..., :first] + 1)
            attended = torch.cat((read, attended), dim=-1)
        update = self.drop_path(self.dropout(self.out(attended)))
        tokens = self.norm(tokens + update)
        hidden = self.dropout(F.gelu(self.fc1(tokens)))
        return self.ffn_norm(tokens + self.dropout(self.fc2(hidden)))


class FormerToMobile(nn.Module):
    """Mobile←Former: the features read the tokens.

    Queries are the raw features, keys and values two projections of the tokens; the result is added
    to the features, without norm and without output projection.

    Args:
        channels: Channels C of the features.
        token_dim: Width d of a token.
        num_heads: Heads; 2 in the backbone, 8 in the head.
        dropout: Dropout of the residual branch.
        drop_path: Probability of dropping the residual branch per sample.
    """

    def __init__(
        self,
        channels: int,
        token_dim: int,
        num_heads: int = 2,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.key = Linear(token_dim, channels)
        self.value = Linear(token_dim, channels)
        self.dropout = Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        pos: Tensor | None = None,
        query_pos: Tensor | None = None,
    ) -> Tensor:
        """Features (N, C, H, W) and tokens (N, T, d) to features (N, C, H, W).

        ``pos`` (N, C, H, W) is added to the features as queries, ``query_pos`` (N, T, d) to the
        tokens as keys.
        """
        key = _split_heads(self.key(_add(tokens, query_pos)) * self.scale, self.num_heads)
        value = _split_heads(self.value(tokens), self.num_heads)
        if self.num_heads * tokens.shape[1] > x.shape[1]:
            # More scores than features: torch's fused attention does not store them.
            query = _map_to_sequence(_add(x, pos), self.num_heads)
            attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
            attended = attended.transpose(-1, -2)
        else:
            logits = key @ _map_to_heads(_add(x, pos), self.num_heads)
            attended = value.transpose(-1, -2) @ logits.softmax(dim=-2)
        update = attended.flatten(1, 2).unflatten(-1, x.shape[-2:])
        return x + self.drop_path(self.dropout(update))
