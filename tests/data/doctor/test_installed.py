"""The installed stack: what it is, what is known to break, what does not import."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from mmdet_mobileformer import stack
from mmdet_mobileformer.data.doctor import installed
from mmdet_mobileformer.stack import Installed


def test_this_stack() -> None:
    pytest.importorskip("mmdet.models")
    versions, findings = installed.check_stack()
    import torch

    assert versions["torch"] == torch.__version__ and versions["python"].count(".") == 2
    assert not [f for f in findings if f.level == "error"]


def test_a_known_break_is_told_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "mmdet 3.3.0 refuses mmcv 2.2.0: pip install mmcv==2.1.0"
    monkeypatch.setattr(stack, "known_break", lambda: sentence)
    _, findings = installed.check_stack()
    assert findings[0].level == "error" and findings[0].message == sentence
    assert "pip install" in findings[0].advice


def test_other_distributions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"mmcv": Installed("onedl-mmcv", "2.3.6"), "mmdet": None}
    monkeypatch.setattr(stack, "installed_versions", lambda: found)
    monkeypatch.setattr(stack, "known_break", lambda: None)
    versions, _ = installed.check_stack()
    assert versions["mmcv"] == "2.3.6 (onedl-mmcv)" and versions["mmdet"] is None


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("libGL.so.1: cannot open shared object file", "libgl1"),
        ("numpy.core.multiarray failed to import", "numpy<2"),
        ("something else\nwith more lines", "README"),
    ],
)
def test_a_failing_import(monkeypatch: pytest.MonkeyPatch, message: str, fix: str) -> None:
    real = importlib.import_module

    def fails(name: str, *args: Any) -> Any:
        if name == "cv2":
            raise ImportError(message)
        return real(name, *args)

    monkeypatch.setattr(installed.importlib, "import_module", fails)
    findings = [f for f in installed.check_stack()[1] if f.check == "import"]
    assert len(findings) == 1 and findings[0].level == "error"
    assert "cv2 (reading pictures) does not import: ImportError: " in findings[0].message
    assert fix in findings[0].advice and "\n" not in findings[0].message


def test_without_pkg_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    real = installed.find_spec
    monkeypatch.setattr(
        installed, "find_spec", lambda name: None if name == "pkg_resources" else real(name)
    )
    findings = {f.check: f for f in installed.check_stack()[1]}
    assert findings["pkg-resources"].level == "warning"
    assert "setuptools<82" in findings["pkg-resources"].advice


def test_reasons_of_an_import() -> None:
    assert installed._import_error("json") is None
    error = installed._import_error("no_such_module_at_all")
    assert isinstance(error, ModuleNotFoundError)
    finding = installed.describe_import_error("x", error)
    assert finding.advice.startswith("Install no_such_module_at_all")
