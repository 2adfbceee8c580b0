"""Mobile-Former, the backbone, and its ImageNet classifier (arXiv 2108.05895v3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .archs import STRIDES, get_arch
from .layers import (
    ConvBN,
    LiteBottleneck,
    MobileFormerBlock,
    MobileToFormer,
    channel_shuffle,
    stride2_mask,
)

#: Smallest height and width of an input, in pixels: below it stride 32 has no cell.
MIN_SIZE = 32


def init_mobileformer(module: nn.Module) -> None:
    """The official initialisation, meant for ``nn.Module.apply``.

    Convolutions N(0, sqrt(2 / (k*k*out))), linear layers N(0, 0.01) with zero bias, norms 1 and 0.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def check_input(x: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError unless ``x`` are images (N, 3, H, W) and ``mask`` is theirs or None."""
    if x.dim() != 4 or x.shape[1] != 3:
        raise ValueError(f"MobileFormer takes images (N, 3, H, W), not {tuple(x.shape)}")
    if min(x.shape[-2:]) < MIN_SIZE:
        raise ValueError(
            f"MobileFormer takes images of at least {MIN_SIZE}x{MIN_SIZE} px, not "
            f"{x.shape[-2]}x{x.shape[-1]}: resize or pad them"
        )
    if mask is not None and tuple(mask.shape) != (x.shape[0], *x.shape[-2:]):
        raise ValueError(
            f"the padding mask is {tuple(mask.shape)}: give "
            f"{(x.shape[0], *x.shape[-2:])}, one value per pixel"
        )


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm as in training but without changing the running statistics.

    Activation checkpointing runs a block twice; only the first run may count. A momentum of zero
    leaves the statistics alone and saves the same tensors for the backward pass.
    """
    norms = [
        m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)


class MobileFormer(BaseModule):
    """Mobile-Former without the classifier and without the last Mobile→Former layer.

    Args:
        arch: ``'508m'``, ``'294m'``, ``'214m'``, ``'151m'``, ``'96m'``, ``'52m'`` or ``'26m'``.
        dynamic_relu: ``'spatial-aware'`` mixes all tokens per position (the detector's backbone);
            ``'first-token'`` reads the first token (ImageNet classification). Both have the same
            parameters.
        out_indices: Which of strides 4, 8, 16, 32 (0 to 3) to return; each is the output of the
            last block at that stride. Blocks after the last one returned are not built.
        frozen_stages: Parts without gradient and with BatchNorm in evaluation mode: -1 none, 0 the
            stem and the learned tokens, k also the blocks up to the k-th stride (1 is stride 4).
        norm_eval: Keep every BatchNorm in evaluation mode during training.
        with_cp: Recompute each block in the backward pass instead of storing its activations.
        drop_path_rate: Largest probability of dropping a residual branch per sample, growing
            linearly with depth.
        num_tokens: Global tokens in place of the arch's number, for ablations.
        init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` takes an official ImageNet checkpoint
            or one of ours; every key of the backbone must match. None is the official random
            initialisation.

    Attributes:
        out_channels: Channels of each output, in the order of ``out_indices``.
        out_strides: Stride of each output.

    Raises:
        ValueError: If an argument is out of its range.
    """

    #: The detector hands such a backbone the padding mask.
    takes_mask = True

    def __init__(
        self,
        arch: str = "508m",
        dynamic_relu: str = "spatial-aware",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        num_tokens: int | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        spec = get_arch(arch)
        out_indices = tuple(out_indices)
        if dynamic_relu not in ("spatial-aware", "first-token"):
            raise ValueError(
                f"dynamic_relu is {dynamic_relu!r}: choose 'spatial-aware' or 'first-token'"
            )
        if not out_indices or any(i not in range(4) for i in out_indices):
            raise ValueError(
                f"out_indices is {out_indices}: give some of 0, 1, 2, 3 (strides 4, 8, 16, 32)"
            )
        if tuple(sorted(set(out_indices))) != out_indices:
            raise ValueError(f"out_indices is {out_indices}: give each index once, in rising order")
        if frozen_stages not in range(-1, 5):
            raise ValueError(f"frozen_stages is {frozen_stages}: give -1 (none) to 4 (all)")

        self.arch = arch
        self.out_indices = out_indices
        self.out_channels = tuple(spec.out_channels[i] for i in out_indices)
        self.out_strides = tuple(STRIDES[i] for i in out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        if num_tokens is not None and num_tokens < 1:
            raise ValueError(f"num_tokens is {num_tokens}: give at least 1, or None for the arch's")
        self.tokens = nn.Parameter(torch.randn(num_tokens or spec.num_tokens, spec.token_dim))
        self.stem = ConvBN(3, spec.stem, 3, 2)
        stages = spec.stages[: max(out_indices) + 1]
        total = sum(len(stage) for stage in spec.stages)
        self.blocks = nn.ModuleList()
        #: Blocks up to and including each stage.
        self.stage_ends: list[int] = []
        channels = spec.stem
        for stage in stages:
            for block in stage:
                drop_path = drop_path_rate * len(self.blocks) / (total - 1)
                if block.kind == "lite":
                    self.blocks.append(LiteBottleneck(channels, block, spec.groups))
                else:
                    self.blocks.append(
                        MobileFormerBlock(
                            channels,
                            block,
                            spec.token_dim,
                            spatial_aware=dynamic_relu == "spatial-aware",
                            groups=spec.groups,
                            drop_path=drop_path,
                        )
                    )
                channels = block.width
            self.stage_ends.append(len(self.blocks))
        self.apply(init_mobileformer)
        self._freeze()

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, every key of which must match.

        Without a checkpoint the official initialisation of ``__init__`` stays, or what another kind
        of ``init_cfg`` says.

        Raises:
            ValueError: If a key is missing, unknown or misshapen.
            FileNotFoundError: If there is no such file.
        """
        if isinstance(self.init_cfg, dict) and self.init_cfg.get("type") == "Pretrained":
            # checkpoint.py builds backbones to know their shapes, hence not imported above.
            from .checkpoint import load_pretrained_backbone

            load_pretrained_backbone(self, self.init_cfg["checkpoint"])
            self._is_init = True
        elif self.init_cfg:
            super().init_weights()
        else:
            # mmengine would warn that nothing was initialised; __init__ has done it.
            self._is_init = True

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x: Images (N, 3, H, W), H and W at least 32, odd sizes included.
            mask: Optional padding mask (N, H, W), True where padded. Padded positions get no
                attention, are zeros to every 3x3 convolution, and hold arbitrary values in the
                result. Every image keeps its pixel at the top left.

        Returns:
            One map (N, C, ceil(H / stride), ceil(W / stride)) per ``out_indices``.

        Raises:
            ValueError: If the input is not such a tensor.
        """
        return self.forward_tokens(x, mask)[0]

    def forward_tokens(
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """As :meth:`forward`, with the tokens (N, T, d) after the last block beside the maps."""
        self._check_input(x, mask)
        tokens = self.tokens.unsqueeze(0).expand(x.shape[0], -1, -1)
        x = F.relu6(self.stem(x, mask), inplace=True)
        mask = stride2_mask(mask)
        outs = []
        for index, block in enumerate(self.blocks):
            x, tokens = self._run(block, x, tokens, mask)
            mask = stride2_mask(mask) if block.stride == 2 else mask
            stage = self.stage_ends.index(index + 1) if index + 1 in self.stage_ends else -1
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs), tokens

    def _run(
        self, block: nn.Module, x: Tensor, tokens: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if not (self.with_cp and torch.is_grad_enabled()):
            result: tuple[Tensor, Tensor] = block(x, tokens, mask)
            return result

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _frozen_statistics(block)

        result = checkpoint(block, x, tokens, mask, use_reentrant=False, context_fn=contexts)
        return result

    def _check_input(self, x: Tensor, mask: Tensor | None) -> None:
        check_input(x, mask)
        if x.shape[0] == 1 and max(x.shape[-2:]) <= MIN_SIZE and self._trains_batchnorm():
            raise ValueError(
                "BatchNorm cannot train on one value per channel (batch 1, one cell at stride 32): "
                "use a larger batch or image, or norm_eval=True"
            )

    def _trains_batchnorm(self) -> bool:
        return len(self.stage_ends) == 4 and self.training and not self.norm_eval

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        ends = [0, *self.stage_ends]
        frozen: list[nn.Module] = [self.stem]
        frozen += self.blocks[: ends[min(self.frozen_stages, len(self.stage_ends))]]
        self.tokens.requires_grad_(False)
        for module in frozen:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> MobileFormer:
        """Switch the mode; frozen parts, and with ``norm_eval`` every BatchNorm, stay in eval."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


class ImageNetHead(nn.Module):
    """Closing Mobile→Former layer and classifier (official code).

    Args:
        arch: The backbone's arch.
        num_classes: Classes, 1000 in ImageNet.
        dropout: Dropout before the last layer; None takes the paper's value.
    """

    def __init__(self, arch: str, num_classes: int = 1000, dropout: float | None = None) -> None:
        super().__init__()
        spec = get_arch(arch)
        channels = spec.out_channels[-1]
        hidden = 6 * channels
        self.groups = spec.groups
        self.mobile_to_former = MobileToFormer(channels, spec.token_dim)
        self.conv = ConvBN(channels, hidden, groups=spec.groups)
        self.fc1 = nn.Linear(hidden + spec.token_dim, spec.fc_width)
        self.bn = nn.BatchNorm1d(spec.fc_width)
        self.dropout = nn.Dropout(spec.dropout if dropout is None else dropout)
        self.fc2 = nn.Linear(spec.fc_width, num_classes)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Features (N, C, H, W) at stride 32 and tokens (N, T, d) to logits (N, classes)."""
        tokens, _ = self.mobile_to_former(x, tokens)
        if self.groups > 1:
            # In 26m the shuffle comes before this convolution, not after it.
            x = channel_shuffle(x, self.groups)
        x = F.relu6(self.conv(x))
        pooled = F.hardswish(x.mean(dim=(2, 3)))
        hidden = self.bn(self.fc1(torch.cat((pooled, tokens[:, 0]), dim=1)))
        logits: Tensor = self.fc2(self.dropout(F.hardswish(hidden)))
        return logits


class MobileFormerClassifier(nn.Module):
    """The ImageNet classifier, so that numbers can be compared with the official ones.

    Args:
        arch: As in :class:`MobileFormer`.
        num_classes: Classes, 1000 in ImageNet.
        dynamic_relu: As in :class:`MobileFormer`; the paper classifies with ``'first-token'``.
        dropout: Dropout before the last layer; None takes the paper's value.
        drop_path_rate: As in :class:`MobileFormer`.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int = 1000,
        dynamic_relu: str = "first-token",
        dropout: float | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = MobileFormer(
            arch, dynamic_relu, out_indices=(3,), drop_path_rate=drop_path_rate
        )
        self.head = ImageNetHead(arch, num_classes, dropout)
        self.head.apply(init_mobileformer)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes)."""
        (features,), tokens = self.backbone.forward_tokens(x)
        logits: Tensor = self.head(features, tokens)
        return logits
