"""Bounds of what PyTorch's convolutions on CPUs remember of every size they saw (ours).

oneDNN keeps a primitive, with its machine code, per layer and size of the picture, and ideep, between
it and PyTorch, a description per layer and size. Both hold 1,024 by default. With pictures of many
sizes they fill over hours, and every replaced entry leaves a hole between the large tensors. Small
caches are full after seconds, so that memory stays flat from then on; docs/reliability.md has numbers.
"""

from __future__ import annotations

import os

#: Entries of each: a detection of one size needs fewer than 100, so pictures of one size stay fast.
ENTRIES = 128
#: A training step needs up to 250, and making them anew each time takes a tenth of it.
TRAINING_ENTRIES = 512

#: The names of each cache's variable; oneDNN was called DNNL.
_VARIABLES = (
    ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"),
    ("LRU_CACHE_CAPACITY",),
)

#: Names, also to processes that are started, the variables that were set here and not by the user.
_OURS = "MMDET_MOBILEFORMER_SET"


def bound_kernel_caches(entries: int = ENTRIES) -> None:
    """Bound both caches through the environment, in this process and those it starts.

    What the user has set in the environment stays, what an earlier call has set does not. Has no effect on a process that has run a
    convolution already: each cache reads its variable once, at the first. ideep's also reads it in
    torch.set_num_threads.

    Args:
        entries: Entries of each cache.
    """
    ours = set(os.environ.get(_OURS, "").split())
    for names in _VARIABLES:
        if all(name in ours or name not in os.environ for name in names):
            os.environ[names[0]] = str(entries)
            ours.add(names[0])
    os.environ[_OURS] = " ".join(sorted(ours))
