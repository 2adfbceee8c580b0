"""train/memory.py."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from fresh_process import printed

from mmdet_mobileformer.train.memory import use_huge_pages

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


# Every other 64 KB block of 40 MB stays in use, so nothing can be cut off the heap's end.
HOLES = """
import runpy, sys
import numpy as np
module = runpy.run_path(sys.argv[1])
module["keep_freed_memory"]()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

blocks = [np.ones(8192) for _ in range(640)]
del blocks[::2]
before = resident()
print(module["release_freed_memory"](), before - resident(), sum(map(np.sum, blocks)))
"""


# A tensor of 64 MiB: 16,384 small pages.
HUGE = """
import resource, sys
from mmdet_mobileformer.train.memory import use_huge_pages
if sys.argv[1] == "huge":
    use_huge_pages()
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
kept = torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ON_REQUEST = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    (without,) = printed(PROBE, str(MODULE), "as it is")
    answer, kept = printed(PROBE, str(MODULE), "keep")
    assert answer == "True"
    assert int(kept) * 4 < int(without)


@pytest.mark.slow
@pytest.mark.skipif(
    not ON_REQUEST.exists() or "[madvise]" not in ON_REQUEST.read_text(),
    reason="huge pages are not given on request here",
)
def test_large_tensors_lie_in_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    counts = [int(*printed(HUGE, how)) for how in ("as it is", "huge")]
    assert counts[0] > 16_000 and counts[1] * 10 < counts[0]


def test_what_the_user_said_of_huge_pages_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_freed_memory_between_used_blocks_is_given_back() -> None:
    answer, given_back, total = printed(HOLES, str(MODULE))
    assert answer == "True"
    assert int(given_back) >= 15
    assert float(total) == 320 * 8192


def test_a_training_releases_at_intervals_and_after_validations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mmdet")
    from mmdet_mobileformer.train import hooks

    calls: list[int] = []
    monkeypatch.setattr(hooks, "release_freed_memory", lambda: calls.append(runner.iter))
    runner = SimpleNamespace(iter=0)
    hook = hooks.ReleaseMemoryHook(interval=3)
    for runner.iter in range(10):
        hook.after_train_iter(runner, 0)
    hook.after_val(runner)
    assert calls == [2, 5, 8, 9]
