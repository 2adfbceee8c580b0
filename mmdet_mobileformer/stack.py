"""The stack under this package: what is installed, and the fixes for its known breaks.

Imports torch and mmengine alone. Everything else is only looked up in the installed metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from . import old_torch

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
    return {package: next(iter(_all(package)), None) for package in DISTRIBUTIONS}


def _all(package: str) -> list[Installed]:
    """Every installed distribution of an import name; one unless pip was misled."""
    found = []
    for name in DISTRIBUTIONS[package]:
        try:
            found.append(Installed(name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def known_break() -> str | None:
    """What is known not to work together in the installed stack, before anything is imported.

    Returns:
        One sentence that names the combination and its fix, or None. Without mmdet only torch and
        numpy count: the backbone needs neither mmcv nor its operators.
    """
    found = installed_versions()
    torch_, numpy, mmdet, mmcv = (found[name] for name in ("torch", "numpy", "mmdet", "mmcv"))
    # A torch built by its user may have no metadata; torch itself is imported above.
    torch_version = torch_.version if torch_ else torch.__version__
    if numpy and _number(torch_version) < (2, 3) and _number(numpy.version) >= (2,):
        return (
            f"torch {torch_version} was built for numpy 1 and cannot use the installed numpy "
            f"{numpy.version}: pip install 'numpy<2'"
        )
    if mmdet is None:
        return None
    for package in ("mmengine", "mmcv", "mmdet"):
        names = [f"{name} {version}" for name, version in _all(package)]
        if len(names) > 1:
            return (
                f"{' and '.join(names)} are installed over each other, both as the module "
                f"{package}: pip uninstall both, then install one of them again"
            )
    if _number(mmdet.version) < (3,):
        return f"mmdet {mmdet.version} is too old for this package: pip install mmdet==3.3.0"
    if mmcv is None:
        return f"{mmdet.distribution} {mmdet.version} needs mmcv, which is not installed: {_fix(mmdet)}"
    if mmdet.distribution == "mmdet" and _number(mmcv.version) >= (2, 2):
        return (
            f"mmdet {mmdet.version} refuses {mmcv.distribution} {mmcv.version} (it wants mmcv below "
            f"2.2.0): {_fix(mmdet)}"
        )
    if not _has_operators():
        return (
            f"{mmdet.distribution} {mmdet.version} needs mmcv's compiled operators, which "
            f"{mmcv.distribution} {mmcv.version} was installed without: "
            f"pip uninstall {mmcv.distribution}, then {_fix(mmdet)}"
        )
    return None


def _fix(mmdet: Installed) -> str:
    """How to get the mmcv that this mmdet was verified with."""
    name, stack = ("mmcv==2.1.0", "stock")
    if mmdet.distribution != "mmdet":
        name, stack = ("onedl-mmcv==2.3.6", "onedl")
    return (
        f"pip install --no-build-isolation {name} (compiled in about ten minutes), or make setup "
        f"STACK={stack} in a clone of this package"
    )


def _number(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: '2.13.0+cpu' is (2, 13, 0)."""
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _has_operators() -> bool:
    """Whether the installed mmcv has its compiled module, found without importing mmcv."""
    spec = find_spec("mmcv")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return any(Path(f, "_ext" + s).is_file() for f in folders for s in EXTENSION_SUFFIXES)


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


def safe_load(file: str | Path, map_location: Any = "cpu") -> Any:
    """Read a file of torch.save without running code from it, on every torch from 2.0.

    Allowed are tensors, plain data, and what mmengine's Runner puts into its checkpoints.

    Args:
        file: A local file.
        map_location: As in torch.load.

    Raises:
        UnpicklingError: If the file holds anything else.
    """
    # Said explicitly: before torch 2.6 the default is to trust the file.
    if allow_mmengine_checkpoints():
        return torch.load(file, map_location=map_location, weights_only=True)
    return old_torch.load(file, map_location, _CHECKPOINT_GLOBALS)
