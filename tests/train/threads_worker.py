"""One of two processes: runs a tool and writes how many gloo threads live before and after its end.

Arguments: a folder for the counts, the tool, the tool's arguments.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import torch.distributed as dist


def gloo_threads() -> int:
    """Of this process, by the name that torch gives them."""
    tasks = Path("/proc/self/task").iterdir()
    return sum((task / "comm").read_text().startswith("pt_gloo") for task in tasks)


if __name__ == "__main__":
    folder, *sys.argv = sys.argv[1:]
    os.chdir(folder)  # the config writes its predictions there
    counts: list[int] = []
    leave = dist.destroy_process_group

    def counted() -> None:
        counts.append(gloo_threads())
        leave()

    dist.destroy_process_group = counted
    runpy.run_path(sys.argv[0], run_name="__main__")
    counts.append(gloo_threads())
    (Path(folder) / f"rank{os.environ['RANK']}.txt").write_text(" ".join(map(str, counts)))
