"""Mobile-Former for MMDetection: backbone, neck and the end-to-end detector E2E-MF.

Backbone, arch data and conversion need torch and mmengine alone; head, neck and detector register
where mmdet imports. Without torch or mmengine only :mod:`mmdet_mobileformer.runtime` works.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Any

from .kernel_caches import bound_kernel_caches
from .version import __version__

# Before the first convolution of the process.
bound_kernel_caches()
_missing: object = None
try:
    from mmengine.registry import MODELS

    from .archs import ARCHS
    from .backbone import MobileFormer, MobileFormerClassifier
    from .checkpoint import convert_official_state_dict
    from .models import config_names, config_path
    from .stack import allow_mmengine_checkpoints, known_break

    allow_mmengine_checkpoints()
    # In mmengine's root registry, so that every OpenMMLab library finds it as type='MobileFormer'.
    MODELS.register_module(module=MobileFormer, force=True)
    _missing = known_break()
except ImportError as error:
    # Neither is installed where the runtime alone is used. And `python -m mmdet_mobileformer doctor`
    # runs all the same, to say what does not import and why.
    absent = (error.name or "").partition(".")[0]
    if absent not in ("torch", "mmengine") and sys.argv[:2] != ["-m", "doctor"]:
        raise
    _missing = error

_CORE = (
    "ARCHS", "MobileFormer", "MobileFormerClassifier", "config_names", "config_path",
    "convert_official_state_dict",
)
_DETECTION = ("E2EMF", "E2EMFHead", "E2EMFTrainingHead", "E2EMFWithAuxiliary", "MobileFormerFPN")
if isinstance(_missing, str):
    warnings.warn(_missing, RuntimeWarning, stacklevel=2)
elif _missing is None:
    try:
        from .data import bad_samples_hook, fast_coco  # noqa: F401  (they register)
        from .detector import E2EMF
        from .head import E2EMFHead
        from .neck import MobileFormerFPN
        from .train import (  # noqa: F401  (they register)
            clock,
            hooks,
            minutes,
            muon,
            optim,
            other_classes,
            quality,
        )
        from .train.auxiliary import E2EMFWithAuxiliary
        from .train.denoising import E2EMFTrainingHead
    except (ImportError, AssertionError) as error:
        # mmdet asserts its mmcv's version.
        _missing = error
# ImageNet training alone needs it, and with it a torchvision that fits the torch.
with suppress(ImportError, AssertionError, RuntimeError):
    from . import pretrain  # noqa: F401  (registers in mmpretrain)


def __getattr__(name: str) -> Any:
    if name in _DETECTION:
        raise ImportError(
            f"{name} needs mmdet, which does not import here ({_missing}): see the README"
        )
    if name in _CORE:
        raise ImportError(
            f"{name} needs torch and mmengine, which do not import here ({_missing}): see the README"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ARCHS",
    "E2EMF",
    "E2EMFHead",
    "E2EMFTrainingHead",
    "E2EMFWithAuxiliary",
    "MobileFormer",
    "MobileFormerClassifier",
    "MobileFormerFPN",
    "__version__",
    "config_names",
    "config_path",
    "convert_official_state_dict",
]
