"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

# tests/ is no package: its helpers are imported by name.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
