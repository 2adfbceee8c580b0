"""What a training on CPUs sets for its whole process."""

from __future__ import annotations

import torch

from .memory import keep_freed_memory, use_huge_pages


def prepare_process() -> bool:
    """Make a training step on a CPU cheaper; call it before torch's first tensor.

    Large tensors lie in huge pages and freed memory is kept (:mod:`.memory`). Numbers too small for
    a normal float (below 1.2e-38) become zero, since arithmetic with them takes many times as long:
    a head of attention that looks at one place gives the others such weights, in every backward.

    Returns:
        Whether freed memory is kept, to be given back by
        :class:`~mmdet_mobileformer.train.hooks.ReleaseMemoryHook`.
    """
    use_huge_pages()
    # Threads that torch starts later inherit it, which is why it comes first.
    torch.set_flush_denormal(True)
    return keep_freed_memory()
