"""Memory of long runs on CPUs."""

from __future__ import annotations

import ctypes
import sys

#: glibc's parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory instead of giving it back to the system at once.

    By default every large tensor is mapped anew and its pages are faulted in one by one, which
    costs a training step on a CPU more than its arithmetic. The process then stays at its peak
    size. Does nothing where the C library is not glibc.

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
