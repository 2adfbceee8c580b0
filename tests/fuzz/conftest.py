"""The helpers of the neighbouring folders, and a tiny detector with its data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet.models")
pytest.importorskip("hypothesis")

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny_run import make_run  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config file and data root."""
    return make_run(tmp_path_factory.mktemp("fuzz"))
