"""Builds the compiled kernels once per machine, and says why where that fails.

torch's own extension mechanism compiles the sources for the processor at hand (half a minute, then
cached under torch's extension folder). Without a compiler nothing is lost but speed: the folded
model and training then compute the same with torch's operators.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: ``0`` keeps the kernels from being built and used.
SWITCH = "MMDET_MOBILEFORMER_KERNELS"
_FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fopenmp"]
_state = {"loaded": False}
_SOURCES = ("ops.cpp", "training_ops.cpp")
_HEADERS = ("gemm.h", "activation.h", "rows.h", "tokens.h", "training.h", "depthwise.h")


def kernels_loaded() -> bool:
    """Whether something has already built or loaded the kernels; builds nothing."""
    return _state["loaded"]


def kernels_available() -> bool:
    """Whether the compiled kernels can be used; builds them at the first call."""
    return why_no_kernels() is None


def use_kernels_on_cpu() -> bool:
    """Load the kernels where there is no GPU, for a training; the first time they are built.

    Returns:
        Whether they are used.
    """
    return not torch.cuda.is_available() and kernels_available()


@cache
def why_no_kernels() -> str | None:
    """None if the kernels are loaded, else the reason in one sentence."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 switches the compiled kernels off"
    if sys.platform != "linux":
        return f"the compiled kernels are built on Linux only, not on {sys.platform}"
    try:
        _build()
    except Exception as error:  # whatever a foreign compiler does, the plain operators remain
        lines = str(error).splitlines() or [type(error).__name__]
        line = next((line for line in lines if "error:" in line), lines[0])
        reason = f"the compiled kernels could not be built ({line}): torch's operators are used"
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return reason
    _state["loaded"] = True
    return None


def _build() -> None:
    from torch.utils.cpp_extension import get_default_build_root, load

    folder = Path(__file__).parent
    name = f"mobileformer_{_fingerprint(folder)}"
    root = Path(get_default_build_root())
    library = root / f"{name}.so"
    if library.exists():
        torch.ops.load_library(str(library))
        _register_shapes()
        return
    # ninja may be installed beside the interpreter without being on the path.
    beside = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if beside not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((path, beside))
    root.mkdir(parents=True, exist_ok=True)
    # Each process builds in a folder of its own: torch's lock would outlive a build that was stopped.
    with tempfile.TemporaryDirectory(dir=root) as own:
        load(
            name=name,
            sources=[str(folder / name) for name in _SOURCES],
            extra_cflags=_FLAGS,
            extra_ldflags=["-fopenmp"],
            build_directory=own,
            is_python_module=False,
        )
        os.replace(Path(own) / f"{name}.so", library)
    _register_shapes()


def _fingerprint(folder: Path) -> str:
    """Changes with the sources, torch and the processor: homes are shared, instructions are not."""
    parts = [(folder / name).read_text(encoding="utf-8") for name in (*_SOURCES, *_HEADERS)]
    parts += [torch.__version__, *_FLAGS, platform.machine()]
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        parts += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _register_shapes() -> None:
    """Tell torch.compile and torch.export what the operators give."""

    def bridge_results(
        x: Tensor, grid: Any, channels: int, keys: bool, queries: Tensor | None, mean: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, (height, width) = x.shape[0], grid
        asked = 0 if queries is None else queries.shape[1]
        return (
            x.new_empty((batch, height, width, channels) if keys else (0,)),
            x.new_empty(0 if queries is None else batch, asked, channels),
            x.new_empty(batch if mean else 0, height * width, asked),
        )

    @torch.library.register_fake("mobileformer::mobile")
    def _(x: Tensor, source: str, grid: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        stride, out_channels, queries, mean = args[6], args[12], args[20], args[-1]
        out_grid = [(side - 1) // stride + 1 for side in grid]
        return bridge_results(x, out_grid, out_channels, True, queries, mean)

    @torch.library.register_fake("mobileformer::bridge")
    def _(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        return bridge_results(
            x, x.shape[1:3], x.shape[3], args[2] is not None, args[4], args[-1]
        )

    @torch.library.register_fake("mobileformer::linear")
    def _(x: Tensor, weight: Tensor, bias: Tensor, out_channels: int, act: int) -> Tensor:
        return x.new_empty((*x.shape[:-1], out_channels))

    @torch.library.register_fake("mobileformer::token_mixture")
    def _(
        scores: Tensor, height: Any, width: Any, out_height: Any, out_width: Any, mask: Any
    ) -> Tensor:
        return scores.new_empty(scores.shape[0], out_height * out_width, scores.shape[2])
