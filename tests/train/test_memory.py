"""train/memory.py."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROBE = """
import resource
import torch
from mmdet_mobileformer.train.memory import keep_freed_memory
if {keep}:
    print(keep_freed_memory())
for _ in range(2):
    torch.ones(10_000_000)  # 40 MB: above the largest threshold that glibc chooses itself
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> list[str]:
    """What a fresh process prints: the setting changes the whole process."""
    command = [sys.executable, "-c", PROBE.format(keep=keep)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    (without,) = faults(False)
    answer, kept = faults(True)
    assert answer == "True"
    assert int(kept) * 10 < int(without)
