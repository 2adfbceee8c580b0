"""train/process.py."""

from __future__ import annotations

import pytest
import torch
from fresh_process import printed

# 4 million numbers: torch shares them among its threads.
PROBE = """
import sys
from mmdet_mobileformer.train.process import prepare_process
import torch
if sys.argv[1] == "prepared":
    prepare_process()
torch.set_num_threads(2)
print(int((torch.full((1 << 22,), 1e-38) * 0.1).count_nonzero()))
"""


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="no such setting on this processor")
def test_numbers_too_small_for_a_normal_float_become_zero_in_every_thread() -> None:
    assert printed(PROBE, "as it is") == [str(1 << 22)]
    assert printed(PROBE, "prepared") == ["0"]
