"""Mobile-Former for MMDetection: backbone, neck and the end-to-end detector E2E-MF.

Backbone, arch data and conversion need torch and mmengine alone; head, neck and detector register
where mmdet imports.
"""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS

from .archs import ARCHS
from .backbone import MobileFormer, MobileFormerClassifier
from .checkpoint import convert_official_state_dict
from .stack import allow_mmengine_checkpoints
from .version import __version__

allow_mmengine_checkpoints()
# In mmengine's root registry, so that every OpenMMLab library finds it as type='MobileFormer'.
MODELS.register_module(module=MobileFormer, force=True)

_DETECTION = ("E2EMF", "E2EMFHead", "E2EMFWithAuxiliary", "MobileFormerFPN")
_missing: Exception | None = None
try:
    from .detector import E2EMF
    from .head import E2EMFHead
    from .neck import MobileFormerFPN
    from .train import hooks as _hooks  # noqa: F401
    from .train.auxiliary import E2EMFWithAuxiliary
except (ImportError, AssertionError) as error:
    # mmdet asserts its mmcv's version.
    _missing = error


def __getattr__(name: str) -> Any:
    if name in _DETECTION:
        raise ImportError(
            f"{name} needs mmdet, which does not import here ({_missing}): see the README"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ARCHS",
    "E2EMF",
    "E2EMFHead",
    "E2EMFWithAuxiliary",
    "MobileFormer",
    "MobileFormerClassifier",
    "MobileFormerFPN",
    "__version__",
    "convert_official_state_dict",
]
