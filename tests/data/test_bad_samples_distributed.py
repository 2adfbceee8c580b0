"""Bad pictures with two processes: the same number of steps in both, counts from both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet.datasets")

from small_set import cut, make_set  # noqa: E402

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.distributed


def train(tmp_path: Path, root: Path, how: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += [f"--master_port={port}", str(HERE / "bad_samples_worker.py")]
    command += [str(tmp_path / "work"), str(root), how]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_counts_of_both(tmp_path: Path) -> None:
    root = make_set(tmp_path / "data", train=12)
    # In order and batches of two: process 0 has 1 3, 5 7, 9 11; process 1 has 2 4, 6 8, 10 12.
    for number in (3, 6, 8, 10):
        cut(root / f"train/{number:03d}.jpg")
    done = train(tmp_path, root, "skip")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    seen = [json.loads((tmp_path / f"work/seen{rank}.json").read_text()) for rank in (0, 1)]
    assert seen[0][:3] == [["001.jpg"], ["005.jpg", "007.jpg"], ["009.jpg", "011.jpg"]]
    assert seen[1][:3] == [["002.jpg", "004.jpg"], ["009.jpg"], ["012.jpg"]], "filled by the next"
    assert len(seen[0]) == len(seen[1]) == 6
    log = "\n".join(file.read_text() for file in (tmp_path / "work").rglob("*.log"))
    [first] = [line for line in log.splitlines() if "bad samples in epoch 1" in line]
    assert "samples left out: 4, empty batches filled: 1" in first
    for name in ("006.jpg", "008.jpg", "010.jpg"):
        assert name in first, "the other process's pictures are named at the end of the epoch"
    assert "003.jpg" not in first and log.count("003.jpg: is truncated") == 1
    [second] = [line for line in log.splitlines() if "bad samples in epoch 2" in line]
    assert ".jpg" not in second


def test_strict_stops_both(tmp_path: Path) -> None:
    root = make_set(tmp_path / "data", train=12)
    cut(root / "train/004.jpg")
    done = train(tmp_path, root, "strict")
    assert done.returncode != 0
    assert "rank 1 stops: " in done.stdout and "004.jpg: is truncated" in done.stdout
    # Only the first process prints the sentence of an error; the log of the other has it too.
    assert done.stdout.count("(--strict-data stops at bad data)") == 2
