"""The token side of a folded model: few vectors, so what counts is the number of operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Former, MobileToFormer


class Products(nn.Module):
    """Several linear layers that read the same tokens, as one product.

    Args:
        parts: Weight (out, in) and bias of each, by name.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, parts: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.names = tuple(parts)
        self.sizes = [len(bias) for _, bias in parts.values()]
        self.register_buffer("weight", torch.cat([weight for weight, _ in parts.values()]).detach())
        self.register_buffer("bias", torch.cat([bias for _, bias in parts.values()]).detach())

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """(N, T, in) to (N, T, out) by name."""
        outs = F.linear(tokens, self.weight, self.bias).split(self.sizes, dim=-1)
        return dict(zip(self.names, outs))


def linear_parts(layer: nn.Linear, scale: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer, times ``scale``, a number or one per output."""
    rows = scale[:, None] if isinstance(scale, Tensor) else scale
    return layer.weight.detach() * rows, layer.bias.detach() * scale


def asking_parts(layer: MobileToFormer) -> dict[str, tuple[Tensor, Tensor]]:
    """Query, scaled, and gate of Mobile→Former; the gate is ``1 + hardtanh``, see FoldedUpdate."""
    scale = layer.query.bias.new_full((layer.query.out_features,), layer.scale)
    # Heads that are told where to read ask for nothing.
    scale[: layer.told * (len(scale) // layer.num_heads)] = 0.0
    return {
        "query": linear_parts(layer.query, scale),
        "gate": linear_parts(layer.gate, 1 / 3),
    }


class FoldedUpdate(nn.Module):
    """What Mobile→Former does with the attended vectors."""

    def __init__(self, layer: MobileToFormer) -> None:
        super().__init__()
        self.out = layer.out
        self.norm = layer.norm

    def forward(self, tokens: Tensor, attended: Tensor, gate: Tensor) -> Tensor:
        """Tokens (N, T, d), attended vectors and gates before their bound (N, T, C) to tokens."""
        # 2 * hard_sigmoid(x) is 1 + clamp(x / 3, -1, 1), and the gate comes divided by three.
        gated = torch.addcmul(attended, attended, F.hardtanh(gate))
        return self.norm(tokens + self.out(gated))


class FoldedFormer(nn.Module):
    """Former with its scale in the query's weights."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Former) -> None:
        super().__init__()
        weight, bias = linear_parts(layer.query, layer.scale)
        self.asking = layer.num_heads - layer.told
        self.first = layer.told * (len(bias) // layer.num_heads)
        self.register_buffer("weight", weight[self.first :].clone())
        self.register_buffer("bias", bias[self.first :].clone())
        self.out, self.norm = layer.out, layer.norm
        self.fc1, self.fc2, self.ffn_norm = layer.fc1, layer.fc2, layer.ffn_norm

    def forward(
        self, tokens: Tensor, position: Tensor | None = None, shares: Tensor | None = None
    ) -> Tensor:
        """Tokens and their position (N, T, d) to tokens; ``shares`` as in :class:`Former`."""
        located = tokens if position is None else tokens + position
        query = F.linear(located, self.weight, self.bias)
        query, key, value = (
            x.unflatten(-1, (self.asking, -1)).transpose(1, 2)
            for x in (query, located[..., self.first :], tokens[..., self.first :])
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        attended = attended.transpose(1, 2).flatten(2)
        if shares is not None:
            attended = torch.cat((shares @ (tokens[..., : self.first] + 1), attended), dim=-1)
        tokens = self.norm(tokens + self.out(attended))
        return self.ffn_norm(tokens + self.fc2(F.gelu(self.fc1(tokens))))
