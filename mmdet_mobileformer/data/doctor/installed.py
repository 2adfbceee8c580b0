"""The installed stack: versions, known breaks with their fix, and what really imports."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

from .report import Finding

_WHERE = "stack"
#: What training a detector imports, and what each is for.
_NEEDED = {
    "cv2": "reading pictures",
    "mmcv.ops": "mmdet's operators",
    "mmdet.models": "detectors",
    "pycocotools.coco": "COCO files and AP",
}
_FIXES = {
    "libGL": "Install the missing library: apt-get install libgl1, or use opencv-python-headless.",
    "numpy.core.multiarray": "Install a build for this numpy, or pip install 'numpy<2'.",
    "numpy.dtype size changed": "Install a build for this numpy, or pip install 'numpy<2'.",
}


def check_stack() -> tuple[dict[str, str | None], list[Finding]]:
    """Examine the installed packages.

    Returns:
        Version by package, with the distribution's name where it is another one (onedl-mmcv), and
        the findings.
    """
    versions: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    try:
        from ...stack import installed_versions, known_break
    except ImportError as error:
        return versions, [describe_import_error("the stack (torch, mmengine)", error), *_look_ups()]
    for package, found in installed_versions().items():
        own = found is None or found.distribution == package
        versions[package] = found and (
            found.version if own else f"{found.version} ({found.distribution})"
        )
    findings = []
    broken = known_break()
    if broken is not None:
        # stack.py's sentences are "what: fix".
        findings.append(Finding("error", "known-break", _WHERE, broken, f"Stack: {broken}."))
    for module, use in _NEEDED.items():
        raised = _import_error(module)
        if raised is not None and broken is None:
            findings.append(describe_import_error(f"{module} ({use})", raised))
    return versions, findings + _look_ups()


def _import_error(module: str) -> Exception | None:
    """What a module raises when it is imported; None if it does import."""
    try:
        importlib.import_module(module)
    except Exception as error:  # an import runs code: anything may be raised
        return error
    return None


def describe_import_error(what: str, error: Exception) -> Finding:
    """The finding for something that does not import, with the fix where the reason is known."""
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    fix = next((fix for part, fix in _FIXES.items() if part in reason), None)
    missing = getattr(error, "name", None)
    install = f"Install {missing.partition('.')[0]}" if missing else "Install the stack"
    message = f"{what} does not import: {reason}"
    return Finding(
        "error", "import", _WHERE, message, fix or f"{install} as the README says (make setup)."
    )


def _look_ups() -> list[Finding]:
    """What `_base_ = 'mmdet::...'` and DetInferencer('rtmdet_tiny') need besides mmdet."""
    findings = []
    if find_spec("pkg_resources") is None:
        message = "setuptools has no pkg_resources (82 and later), which mmengine 0.10 uses to find configs"
        advice = "For configs named mmdet::..., pip install 'setuptools<82'."
        findings.append(Finding("warning", "pkg-resources", _WHERE, message, advice))
    spec = find_spec("mmdet")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if folders and not any(Path(folder, ".mim", "configs").is_dir() for folder in folders):
        message = "the installed mmdet has no .mim/configs"
        advice = "For configs named mmdet::..., install mmdet from its wheel again."
        findings.append(Finding("warning", "mmdet-configs", _WHERE, message, advice))
    return findings
