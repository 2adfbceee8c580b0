"""Mobile-Former in mmpretrain: ImageNet training and top-1 by mmpretrain's own flow.

Importing this module registers the backbone and its classification head there. It needs mmpretrain
1.x, which imports torchvision; nothing else of this package does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

try:
    from mmpretrain.models.heads import ClsHead
    from mmpretrain.registry import MODELS
except ImportError as error:
    raise ImportError(
        f"mmdet_mobileformer.pretrain needs mmpretrain, which does not import here ({error}): "
        "docs/imagenet.md says how to install it"
    ) from error

from .backbone import ImageNetHead, MobileFormer, init_mobileformer


class MobileFormerWithTokens(MobileFormer):
    """The backbone as mmpretrain finds it, by ``type='MobileFormer'``.

    Args:
        out_tokens: Return, as the last output, the pair of features (N, C, H, W) and tokens
            (N, T, d) that :class:`MobileFormerClsHead` reads. False returns the maps alone.
        kwargs: As in :class:`MobileFormer`.

    Raises:
        ValueError: If an argument is out of its range, or tokens are asked for from a backbone that
            ends before its last stage.
    """

    def __init__(self, *args: Any, out_tokens: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if out_tokens and self.out_indices[-1] != 3:
            raise ValueError(
                f"out_tokens=True needs the whole backbone, but out_indices is {self.out_indices}: "
                "let it end with 3"
            )
        self.out_tokens = out_tokens

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Any, ...]:
        """Images (N, 3, H, W) to one map per ``out_indices``, the last one with the tokens."""
        outs, tokens = self.forward_tokens(x, mask)
        return (*outs[:-1], (outs[-1], tokens)) if self.out_tokens else outs


# The head's layers are direct children, not a module of their own, so that a model's keys are those
# of MobileFormerClassifier and a converted official checkpoint loads as it is.
@MODELS.register_module()
class MobileFormerClsHead(ImageNetHead, ClsHead):
    """Mobile-Former's classifier as a head of mmpretrain (official code).

    It reads the pair that the backbone returns with ``out_tokens=True``.

    Args:
        arch: The backbone's arch.
        num_classes: Classes, 1000 in ImageNet.
        dropout: Dropout before the last layer; None takes the paper's value.
        loss: Config of the loss; None is mmpretrain's cross entropy.
        topk: For which k to log accuracy in training.
        cal_acc: Whether to log accuracy in training; impossible with mixup.
        init_cfg: As in mmengine; None is the official initialisation.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int = 1000,
        dropout: float | None = None,
        loss: dict[str, Any] | None = None,
        topk: int | tuple[int, ...] = (1,),
        cal_acc: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        # ImageNetHead's call of the next __init__ reaches ClsHead's with its defaults.
        super().__init__(arch, num_classes, dropout)
        self.apply(init_mobileformer)
        self.init_cfg = init_cfg
        if loss is not None:
            self.loss_module = MODELS.build(loss)
        self.topk = topk
        self.cal_acc = cal_acc

    def pre_logits(self, feats: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """The backbone's outputs to features (N, C, H, W) and tokens (N, T, d).

        Raises:
            ValueError: If the backbone gives no tokens.
        """
        last = feats[-1]
        if not isinstance(last, (tuple, list)) or len(last) != 2:
            raise ValueError(
                "MobileFormerClsHead reads the tokens beside the features: set out_tokens=True in "
                "the backbone"
            )
        return last[0], last[1]

    def forward(self, feats: tuple[Any, ...]) -> Tensor:  # type: ignore[override]
        """The backbone's outputs to logits (N, classes)."""
        return ImageNetHead.forward(self, *self.pre_logits(feats))


MODELS.register_module(name="MobileFormer", module=MobileFormerWithTokens, force=True)
