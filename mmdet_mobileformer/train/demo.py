"""What `make demo` does: draw the data, train, score, show."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..analysis.curves import plot_curves, read_log
from ..analysis.pictures import sheet_from_detector
from ..data.redirect import redirect_data_root
from ..data.shapes import make_shapes
from .build import read_config


def train_command(
    root: Path, config: Path, data_root: Path, work_dir: Path, options: Sequence[str]
) -> list[str]:
    """Command line of the training: one GPU, or a process for each of up to two cores.

    Two processes of one thread each do more of so small a model per second than one process with
    two threads.
    """
    flags = ["--work-dir", str(work_dir), "--data-root", str(data_root), "--auto-scale-lr"]
    if options:
        flags += ["--cfg-options", *options]
    processes = min(2, os.cpu_count() or 1)
    if torch.cuda.is_available() or processes == 1:
        return [sys.executable, str(root / "tools" / "train.py"), str(config), *flags]
    script = str(root / "tools" / "dist_train.sh")
    return ["bash", script, str(config), str(processes), *flags]


def free_port() -> int:
    """A TCP port that nothing listens on, for the processes of the training to meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_demo(
    root: Path, data_root: Path, out_dir: Path, options: Sequence[str] = (), pictures: int = 8
) -> float:
    """Train configs/e2emf_demo.py on the embedded data set and draw what it learned.

    Args:
        root: The checkout.
        data_root: Where the embedded data set is or will be.
        out_dir: A new folder for log, checkpoints and pictures.
        options: Further `--cfg-options`, such as fewer epochs.
        pictures: How many validation images to draw.

    Returns:
        COCO AP on the validation split after the last epoch.

    Raises:
        FileExistsError: If ``out_dir`` is there already, or ``data_root`` holds something else.
        RuntimeError: If the training fails.
    """
    if out_dir.exists():
        raise FileExistsError(f"{out_dir} exists already: give a new folder")
    start = time.perf_counter()
    make_shapes(data_root)
    config = root / "configs" / "e2emf_demo.py"
    command = train_command(root, config, data_root, out_dir, options)
    environment = {**os.environ, "PYTHON": sys.executable, "PORT": str(free_port())}
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise RuntimeError(f"the training stopped with an error: see above, and {out_dir}")
    checkpoint = Path((out_dir / "last_checkpoint").read_text().strip())
    curve = out_dir / "curves.png"
    sheet = out_dir / "predictions.png"
    plot_curves(out_dir, curve)
    cfg = read_config(str(config))
    redirect_data_root(cfg, str(data_root))
    sheet_from_detector(cfg, checkpoint, sheet, count=pictures)
    ap = float(read_log(out_dir).metric("bbox_mAP")[1][-1])
    minutes = (time.perf_counter() - start) / 60
    print(
        f"\nCOCO AP {ap:.3f} on the embedded validation split after {minutes:.1f} minutes\n"
        f"predictions beside ground truth: {sheet}\n"
        f"loss and AP: {curve}\n"
        f"checkpoint: {checkpoint}"
    )
    return ap
