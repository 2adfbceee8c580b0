"""Memory of long runs on CPUs."""

from __future__ import annotations

import ctypes
import os
import sys

#: glibc's parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def use_huge_pages() -> None:
    """Let torch ask the system for pages of 2 MB for tensors of that size or more.

    Faulting them in costs less, and a training of E2E-MF-508M was seen to hold less beside its
    tensors (``benchmark.py --train``). What the user has set stays. Has no effect after torch's
    first tensor, nor where the system gives no huge pages on request.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory instead of giving it back to the system at once.

    By default every large tensor is mapped anew and its pages are faulted in one by one, which
    costs a training step on a CPU more than its arithmetic. The process then stays at its peak
    size, until :func:`release_freed_memory`. Does nothing where the C library is not glibc.

    Returns:
        Whether it was set.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def release_freed_memory() -> bool:
    """Give all the pages that nothing uses back to the system, those between used ones too.

    Takes about 50 ms in a training of some 600 MiB; the next step faults them in again.

    Returns:
        Whether there was anything to give back; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    return bool(trim(ctypes.c_size_t(0)))
