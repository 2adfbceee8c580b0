"""Folds a trained model for inference: same results, a fraction of the time.

    from mmdet_mobileformer.deploy.fold import deploy
    fast = deploy(init_detector(config, checkpoint, device="cpu"))

What changes: BatchNorm, channel shuffles, groups and scale factors go into the weights; linear
layers that read the same tokens become one product; what the first block's learned tokens ask for
is computed once; maps are channels last; each Mobile part runs with both bridges in one pass over
the features, in cache, by kernels that torch compiles for the machine
(mmdet_mobileformer/kernels); and predictions that nothing reads in inference are not made.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..backbone import MobileFormer
from ..kernels import kernels_available
from .folded_backbone import FoldedMobileFormer


def deploy(model: nn.Module, kernels: bool | None = None) -> nn.Module:
    """A copy of a model for inference on float32; the given model stays as it is.

    Load checkpoints before: the copy's weights are folded, and it takes no others.

    Args:
        model: An :class:`E2EMF` or a bare :class:`MobileFormer`, on the CPU for the kernels.
        kernels: Whether to use the compiled kernels. None uses them where they can be built and
            the model is float32 on the CPU; False gives a model of torch's own operators, as
            exports need it.

    Returns:
        An :class:`E2EMF` with the methods of inference (``predict``, ``forward`` with mode
        ``'predict'`` or ``'tensor'``), whose class logits and boxes are those of the last prediction
        alone (K = 1); or a backbone whose features are those of ``model``, channels last in memory.

    Raises:
        ValueError: If the model is neither, or kernels are asked for that cannot be used.
    """
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, MobileFormer):
        raise ValueError(
            f"deploy() folds an E2EMF or a MobileFormer, not a {type(model).__name__} with a "
            f"{type(backbone).__name__}"
        )
    compiled = _use_kernels(backbone, kernels)
    with torch.no_grad():
        if isinstance(model, MobileFormer):
            return _closed(FoldedMobileFormer(copy.deepcopy(model), compiled))
        # The backbone must import without mmdet, and so must deploying it.
        from ..detector import E2EMF
        from ..head import E2EMFHead
        from .folded_head import FoldedHead

        if not isinstance(model, E2EMF) or not isinstance(model.bbox_head, E2EMFHead):
            raise ValueError(
                f"deploy() folds an E2EMF with its head, not a {type(model).__name__}: give its "
                "backbone alone"
            )
        copied: Any = copy.deepcopy(model).eval()
        folded: Any = E2EMF.__new__(E2EMF)
        folded.__dict__.update(copied.__dict__)
        folded._modules = {
            "data_preprocessor": copied.data_preprocessor,
            "backbone": FoldedMobileFormer(copied.backbone, compiled),
            "bbox_head": FoldedHead(copied.bbox_head, compiled),
        }
        if copied.with_neck:
            folded._modules["neck"] = copied.neck
    return _closed(folded)


def _use_kernels(backbone: MobileFormer, kernels: bool | None) -> bool:
    """Whether the compiled kernels are used."""
    if kernels is False:
        return False
    tensor = backbone.tokens
    fits = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    if kernels and not fits:
        raise ValueError(
            f"the compiled kernels work on float32 on the CPU, but the model is {tensor.dtype} on "
            f"{tensor.device}: give kernels=False"
        )
    available = fits and kernels_available()
    if kernels and not available:
        from ..kernels import why_no_kernels

        raise ValueError(f"{why_no_kernels()}: give kernels=False or None")
    return available


def _closed(model: nn.Module) -> nn.Module:
    """In evaluation mode, without gradients, and deaf to checkpoints."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError(
            "this model is folded for inference: load the checkpoint into the plain model and "
            "deploy() it again"
        )

    model.register_load_state_dict_pre_hook(refuse)
    return model.eval()
