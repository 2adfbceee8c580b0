"""train/memory.py."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[2] / "mmdet_mobileformer" / "train" / "memory.py"
# 40 MB: above the largest block that glibc decides to keep by itself.
PROBE = """
import resource, runpy, sys
import numpy as np
keep = runpy.run_path(sys.argv[1])["keep_freed_memory"]
if sys.argv[2] == "keep":
    print(keep())
for _ in range(4):
    np.ones(5_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    np.ones(5_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str) -> list[str]:
    """What a fresh process prints: the setting changes the whole process."""
    command = [sys.executable, "-c", PROBE, str(MODULE), keep]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    (without,) = faults("as it is")
    answer, kept = faults("keep")
    assert answer == "True"
    assert int(kept) * 4 < int(without)
