"""FPN that knows Mobile-Former's widths (paper section 4.2: RetinaNet on COCO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from torch import Tensor

from .archs import get_arch


@MODELS.register_module()
class MobileFormerFPN(FPN):
    """mmdet's FPN with ``arch`` in place of hand-counted input channels.

    P6 is taken from P5's output, as the paper's counts show. Whether backbone and neck fit is seen
    at the first forward, and in a whole config by :func:`mmdet_mobileformer.pairing.check_pairing`.

    Args:
        arch: The backbone's arch.
        out_indices: The backbone's ``out_indices``, strides 4, 8, 16, 32 as 0 to 3.
        out_channels: Channels of every level.
        num_outs: Number of levels; beyond the backbone's, stride-2 convolutions.
        kwargs: Further arguments of mmdet's FPN.

    Raises:
        ValueError: If the arch is unknown or ``out_indices`` are no rising choice of 0 to 3.
    """

    def __init__(
        self,
        arch: str = "508m",
        out_indices: Sequence[int] = (1, 2, 3),
        out_channels: int = 256,
        num_outs: int = 5,
        add_extra_convs: bool | str = "on_output",
        **kwargs: Any,
    ) -> None:
        widths = get_arch(arch).out_channels
        out_indices = tuple(out_indices)
        if not out_indices or out_indices != tuple(sorted(set(out_indices) & set(range(4)))):
            raise ValueError(
                f"MobileFormerFPN got out_indices={out_indices}: give those of the backbone, "
                "some of 0, 1, 2, 3 in rising order"
            )
        super().__init__(
            in_channels=[widths[index] for index in out_indices],
            out_channels=out_channels,
            num_outs=num_outs,
            add_extra_convs=add_extra_convs,
            **kwargs,
        )
        self.arch = arch

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Features (N, C_i, H_i, W_i), fine to coarse, to ``num_outs`` maps (N, out_channels, ...).

        Raises:
            ValueError: If the features are not those of the arch and ``out_indices``.
        """
        found = [x.shape[1] for x in inputs]
        if found != self.in_channels:
            raise ValueError(
                f"MobileFormerFPN(arch={self.arch!r}) expects features of {self.in_channels} "
                f"channels but got {found}: give backbone and neck the same arch and out_indices"
            )
        outs: tuple[Tensor, ...] = super().forward(tuple(inputs))
        return outs
