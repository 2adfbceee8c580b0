"""Memory over hours of training and of inference: sampled from outside, judged, drawn."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Share of a run, from its start, in which memory may grow: libraries load, caches fill.
WARM_UP = 0.3
#: Growth after that, in MiB per hour, up to which a run counts as flat: what page by page
#: accounting and the allocator's fragments move about.
FLAT = 40.0
#: Sides of the pictures of the inference run, in pixels. At five to one the shorter side is resized to
#: 32 px, the least that the model takes.
SIDES = (128, 640)

Samples = list[tuple[float, float]]


def memory_of(pid: int) -> float:
    """MiB that a process and its children hold alone (USS); 0 if it is gone."""
    import psutil

    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for member in family:
        try:
            total += member.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # a data worker that ended meanwhile
    return total / 2**20


def watch(pid: int, running: Callable[[], bool], every: float = 5.0) -> Samples:
    """(minutes, MiB) of a process and its children, as long as ``running()``."""
    start = time.monotonic()
    samples: Samples = []
    while running():
        used = memory_of(pid)
        if used:
            samples.append(((time.monotonic() - start) / 60, used))
        time.sleep(every)
    return samples


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """MiB per hour after the warm-up: the slope of a line through the samples' medians.

    Medians of 20 equal spans: a validation's short peak is no growth.

    Raises:
        ValueError: If there are fewer than 40 samples after the warm-up.
    """
    points = np.asarray(samples, dtype=float).reshape(-1, 2)
    if len(points):
        points = points[points[:, 0] >= WARM_UP * points[-1, 0]]
    if len(points) < 40:
        raise ValueError(f"{len(points)} samples after the warm-up are too few: let it run longer")
    spans = np.array_split(points, 20)
    minutes = [float(np.median(span[:, 0])) for span in spans]
    used = [float(np.median(span[:, 1])) for span in spans]
    return float(np.polyfit(minutes, used, 1)[0] * 60)


def soak_training(
    root: Path, data_root: Path, work_dir: Path, minutes: float, every: float = 5.0
) -> Samples:
    """Train the demo's model for some minutes, with validations and checkpoints.

    Raises:
        RuntimeError: If the training fails.
    """
    command = [
        sys.executable, str(root / "tools/train.py"), str(root / "configs/e2emf_demo.py"),
        "--work-dir", str(work_dir), "--data-root", str(data_root),
        "--cfg-options", f"train_cfg.minutes={minutes}",
    ]
    log = work_dir.with_suffix(".log")
    # One core, as the inference beside it.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        training = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        samples = watch(training.pid, lambda: training.poll() is None, every)
    if training.returncode != 0:
        raise RuntimeError(f"the training stopped with an error: see {log}")
    return samples


def soak_inference(config: Path, data_root: Path, minutes: float, every: float = 5.0) -> Samples:
    """Run DetInferencer for some minutes on pictures of changing size, a process of its own.

    Raises:
        RuntimeError: If it fails.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_infer, args=(str(config), str(data_root / "val"), minutes)
    )
    process.start()
    samples = watch(int(process.pid or 0), process.is_alive, every)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError("the inference stopped with an error: see above")
    return samples


def _infer(config: str, folder: str, minutes: float) -> None:
    import cv2
    import torch
    from mmdet.apis import DetInferencer

    torch.set_num_threads(1)
    inferencer = DetInferencer(config, device="cpu", show_progress=False)
    files = sorted(Path(folder).iterdir())
    choice = random.Random(0)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        pictures: list[Any] = []
        for file in choice.sample(files, 2):
            size = (choice.randint(*SIDES), choice.randint(*SIDES))
            picture: Any = cv2.imread(str(file))
            pictures.append(cv2.resize(picture, size))
        inferencer(pictures, batch_size=2)


def plot_memory(runs: dict[str, Samples], out_png: Path) -> Path:
    """One curve per run, each with its growth after the warm-up.

    Args:
        runs: Samples by name.
        out_png: The picture; missing folders are made.

    Returns:
        Its path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.0 * len(runs)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axes, (name, samples) in zip(rows, runs.items()):
        minutes, used = np.asarray(samples, dtype=float).reshape(-1, 2).T
        axes.plot(minutes, used, color="#1f5fa8", linewidth=1)
        axes.axvspan(0, WARM_UP * minutes[-1], color="#eceff2", label="warm-up, not judged")
        axes.set_title(f"{name}: {growth(samples):+.1f} MiB per hour", loc="left", fontsize=11)
        axes.set_ylim(0, used.max() * 1.15)
        axes.set_xlim(0, minutes[-1])
        axes.set_ylabel("memory in MiB")
        axes.grid(color="#dfe3e8")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
    rows[-1].set_xlabel("minutes")
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png)
    return out_png
