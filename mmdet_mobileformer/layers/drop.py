"""Stochastic depth. mmcv and timm have one too, but the backbone must import without either."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch per sample (Huang et al. 2016), rescaling what is kept.

    Args:
        prob: Probability of dropping, in [0, 1).

    Raises:
        ValueError: If ``prob`` is outside [0, 1).
    """

    def __init__(self, prob: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= prob < 1.0:
            raise ValueError(f"drop_path_rate is {prob}: give a probability in [0, 1)")
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to (N, ...)."""
        if not self.training or self.prob == 0.0:
            return x
        keep = 1.0 - self.prob
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Show the probability in the module's print."""
        return f"prob={self.prob}"
