"""The seven Mobile-Formers as data: the only place where a model's numbers stand.

Widths, expansions, strides and tokens follow Table 1 and the appendix of the paper
(arXiv 2108.05895v3) as the official backbone code realises them. Configs name an arch; README
tables and tests are made from :data:`ARCHS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BlockSpec:
    """One Mobile-Former block.

    Attributes:
        kind: ``'lite'`` (depthwise, pointwise; no token side), ``'down'`` (stride 2: depthwise e1,
            pointwise, depthwise e2, pointwise) or ``'mobile'`` (pointwise e1, depthwise, pointwise).
        expansions: Width of the hidden layers as multiples of their input width.
        width: Output channels.
        stride: 1 or 2.
    """

    kind: Literal["lite", "down", "mobile"]
    expansions: tuple[int, ...]
    width: int
    stride: int


@dataclass(frozen=True)
class Arch:
    """One Mobile-Former.

    Attributes:
        name: The arch's name, after its MAdds on ImageNet.
        stem: Channels of the stride-2 stem.
        num_tokens: Global tokens of the Former side.
        token_dim: Width of a token.
        stages: Blocks per output stride 4, 8, 16 and 32 (the lite block counts to stride 4).
        fc_width: Hidden width of the ImageNet classifier.
        dropout: Dropout of the ImageNet classifier.
        groups: Groups of every pointwise convolution (4 with a channel shuffle in 26m).
        params: Parameters of the ImageNet classifier (counted on the official code).
        madds: Multiply-adds in millions at 224x224 (fvcore's count of the official code).
        top1: ImageNet top-1 in percent, the paper's figure.
    """

    name: str
    stem: int
    num_tokens: int
    token_dim: int
    stages: tuple[tuple[BlockSpec, ...], ...]
    fc_width: int
    dropout: float
    groups: int
    params: float
    madds: float
    top1: float

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """All blocks in their order."""
        return tuple(block for stage in self.stages for block in stage)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the last block at strides 4, 8, 16, 32."""
        return tuple(stage[-1].width for stage in self.stages)


#: Output stride of each stage.
STRIDES = (4, 8, 16, 32)


def _lite(expansion: int, width: int, stride: int) -> BlockSpec:
    return BlockSpec("lite", (expansion,), width, stride)


def _down(width: int) -> BlockSpec:
    # Every stride-2 block of every arch expands by 6, then by 4.
    return BlockSpec("down", (6, 4), width, 2)


def _mobile(expansion: int, width: int) -> BlockSpec:
    return BlockSpec("mobile", (expansion,), width, 1)


# 52m and 26m differ only in the groups of their pointwise convolutions.
_STAGES_52M = (
    (_lite(3, 12, 2), _mobile(3, 12)),
    (_down(24), _mobile(3, 24)),
    (_down(48), _mobile(4, 48), _mobile(6, 64)),
    (_down(96), _mobile(6, 96)),
)

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch(
            name="508m",
            stem=24,
            num_tokens=6,
            token_dim=192,
            stages=(
                (_lite(2, 24, 1), _down(40), _mobile(3, 40)),
                (_down(72), _mobile(3, 72)),
                (_down(128), _mobile(4, 128), _mobile(6, 176), _mobile(6, 176)),
                (_down(240), _mobile(6, 240), _mobile(6, 240)),
            ),
            fc_width=1920,
            dropout=0.3,
            groups=1,
            params=13.977,
            madds=510.6,
            top1=79.3,
        ),
        Arch(
            name="294m",
            stem=16,
            num_tokens=6,
            token_dim=192,
            stages=(
                (_lite(2, 16, 1), _down(24), _mobile(4, 24)),
                (_down(48), _mobile(4, 48)),
                (_down(96), _mobile(4, 96), _mobile(6, 128), _mobile(6, 128)),
                (_down(192), _mobile(6, 192), _mobile(6, 192)),
            ),
            fc_width=1920,
            dropout=0.3,
            groups=1,
            params=11.423,
            madds=295.4,
            top1=77.9,
        ),
        Arch(
            name="214m",
            stem=12,
            num_tokens=6,
            token_dim=192,
            stages=(
                (_lite(2, 12, 1), _down(20), _mobile(3, 20)),
                (_down(40), _mobile(4, 40)),
                (_down(80), _mobile(4, 80), _mobile(6, 112), _mobile(6, 112)),
                (_down(160), _mobile(6, 160), _mobile(6, 160)),
            ),
            fc_width=1600,
            dropout=0.2,
            groups=1,
            params=9.426,
            madds=215.3,
            top1=76.7,
        ),
        Arch(
            name="151m",
            stem=12,
            num_tokens=6,
            token_dim=192,
            stages=(
                (_lite(2, 12, 1), _down(16), _mobile(3, 16)),
                (_down(32), _mobile(3, 32)),
                (_down(64), _mobile(4, 64), _mobile(6, 88), _mobile(6, 88)),
                (_down(128), _mobile(6, 128), _mobile(6, 128)),
            ),
            fc_width=1280,
            dropout=0.2,
            groups=1,
            params=7.596,
            madds=152.0,
            top1=75.2,
        ),
        Arch(
            name="96m",
            stem=12,
            num_tokens=4,
            token_dim=128,
            stages=(
                (_lite(2, 12, 1), _down(16)),
                (_down(32), _mobile(3, 32)),
                (_down(64), _mobile(4, 64), _mobile(6, 88)),
                (_down(128), _mobile(6, 128)),
            ),
            fc_width=1280,
            dropout=0.2,
            groups=1,
            params=4.585,
            madds=96.3,
            top1=72.8,
        ),
        Arch(
            name="52m",
            stem=8,
            num_tokens=3,
            token_dim=128,
            stages=_STAGES_52M,
            fc_width=1024,
            dropout=0.2,
            groups=1,
            params=3.469,
            madds=51.8,
            top1=68.7,
        ),
        Arch(
            name="26m",
            stem=8,
            num_tokens=3,
            token_dim=128,
            stages=_STAGES_52M,
            fc_width=1024,
            dropout=0.1,
            groups=4,
            params=3.233,
            madds=26.0,
            top1=64.0,
        ),
    )
}


def get_arch(name: str) -> Arch:
    """Look an arch up by name.

    Raises:
        ValueError: If there is no such arch; the sentence lists those there are.
    """
    if name not in ARCHS:
        raise ValueError(f"arch {name!r} is unknown: choose one of {', '.join(ARCHS)}")
    return ARCHS[name]
