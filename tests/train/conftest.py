"""Starting a Python file in two gloo processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def environment() -> dict[str, str]:
    """One thread per process, no GPU, and a free port for dist_train.sh and dist_test.sh."""
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": python_path,
        "PYTHON": sys.executable,
        "PORT": str(free_port()),
    }


@pytest.fixture
def two_processes(environment: dict[str, str]) -> Callable[..., None]:
    """Run a Python file with arguments in two processes; fails with their output."""

    def run(file: Path, *args: object, processes: int = 2) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        command += [f"--master_port={free_port()}", str(file), *map(str, args)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]

    return run
