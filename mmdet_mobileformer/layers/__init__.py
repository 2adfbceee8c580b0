"""Building blocks of the backbone and the head; they need torch alone."""

from .attention import Former, FormerToMobile, Look, MobileToFormer
from .blocks import (
    ConvBN,
    DownsampleBlock,
    LiteBottleneck,
    MobileBlock,
    MobileFormerBlock,
    channel_shuffle,
    stride2_mask,
    zero_padding,
)
from .drop import Dropout, DropPath
from .dynamic_relu import DynamicReLU, token_mixture
from .linear import Linear, linear, use_onednn

__all__ = [
    "ConvBN",
    "DownsampleBlock",
    "DropPath",
    "Dropout",
    "DynamicReLU",
    "Former",
    "FormerToMobile",
    "Linear",
    "LiteBottleneck",
    "Look",
    "MobileBlock",
    "MobileFormerBlock",
    "MobileToFormer",
    "stride2_mask",
    "channel_shuffle",
    "linear",
    "token_mixture",
    "use_onednn",
    "zero_padding",
]
