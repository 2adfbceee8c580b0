"""The stack under this package: what is installed, and the fixes for its known breaks.

Imports torch and mmengine alone. Everything else is only looked up in the installed metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

#: Import name to the distributions that provide it: the stock ones first, then OneDL's.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "mmengine": ("mmengine", "onedl-mmengine", "mmengine-lite"),
    "mmcv": ("mmcv", "onedl-mmcv", "mmcv-lite", "mmcv-full"),
    "mmdet": ("mmdet", "onedl-mmdetection", "onedl-mmdet"),
    "numpy": ("numpy",),
    "opencv": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "pycocotools": ("pycocotools",),
}


class Installed(NamedTuple):
    """One installed package: the distribution that provides it, and its version."""

    distribution: str
    version: str


def installed_versions() -> dict[str, Installed | None]:
    """Look up every package of `DISTRIBUTIONS` without importing it; None where it is absent."""
    return {package: _find(names) for package, names in DISTRIBUTIONS.items()}


def _find(distributions: tuple[str, ...]) -> Installed | None:
    for name in distributions:
        try:
            return Installed(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return None


def _statistic(owner: Any, name: Any) -> Any:
    """Stand for builtins.getattr in a checkpoint: a statistic of HistoryBuffer, nothing else.

    HistoryBuffer pickles its methods, and pickle writes them as getattr(HistoryBuffer, 'mean').
    The real getattr would let a file reach any attribute of any object, so it stays forbidden.

    Raises:
        UnpicklingError: for any other object or attribute.
    """
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(
        f"the checkpoint asks for attribute {name!r} of {owner!r}; only the statistics of "
        "mmengine's HistoryBuffer are allowed, so the file is refused"
    )


def _alias(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """Wrap a function so that torch finds it under another full name.

    torch.serialization looks its list up by __module__ and __qualname__ (2.4: __name__).
    """

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call


def _numpy_globals() -> list[Any]:
    """What pickled numpy scalars and arrays name, in the spelling of numpy 1 and of numpy 2."""
    scalar: Any = np.float64(0).__reduce__()[0]
    reconstruct: Any = np.empty(0).__reduce__()[0]
    aliases = [
        _alias(function, module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for function, name in ((scalar, "scalar"), (reconstruct, "_reconstruct"))
    ]
    # Each dtype is an instance of its own class (numpy.dtypes.Float64DType), which BUILD asks for.
    # The object dtype is left out: its elements are arbitrary objects, and no log holds any.
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"}
    return [np.ndarray, np.dtype, *sorted(dtypes, key=lambda dtype: dtype.__name__), *aliases]


#: Built once, so that calling `allow_mmengine_checkpoints` again adds nothing.
_CHECKPOINT_GLOBALS: list[Any] = [
    HistoryBuffer,
    _alias(_statistic, "builtins", "getattr"),
    *_numpy_globals(),
]


def allow_mmengine_checkpoints() -> bool:
    """Let `torch.load(weights_only=True)` read the checkpoints that mmengine's Runner writes.

    torch >= 2.6 loads with weights_only=True by default and refuses HistoryBuffer and numpy
    scalars, which every mmengine checkpoint holds; mmengine 0.10 calls torch.load bare. The types
    are added to torch's own list of safe ones. Anything else in a file is refused as before.
    May be called any number of times.

    Returns:
        Whether this torch has such a list (torch >= 2.4); False means nothing was done.
    """
    add = getattr(torch.serialization, "add_safe_globals", None)
    if add is None:
        return False
    add(_CHECKPOINT_GLOBALS)
    return True
