"""Does training wait for its data? From the log of a run, or tried out (ours).

mmengine's ``data_time`` is the time from the end of one step to the arrival of the next batch,
``time`` that of both together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger

from .curves import read_log

#: Share of the time above which training waits: below it is what handing over a batch costs.
WAITS_ABOVE = 0.05


@dataclass(frozen=True)
class Waiting:
    """How long training waited for data.

    Attributes:
        steps: Steps or logged records that were counted.
        data_ms: Mean milliseconds of waiting for a batch.
        step_ms: Mean milliseconds of the step after it.
        worst_ms: The longest wait.
    """

    steps: int
    data_ms: float
    step_ms: float
    worst_ms: float

    @property
    def share(self) -> float:
        """Waiting as a part of all the time."""
        total = self.data_ms + self.step_ms
        return self.data_ms / total if total else 0.0

    def text(self) -> str:
        """The numbers and the verdict in one line."""
        verdict = "training waits for data" if self.share > WAITS_ABOVE else "training does not wait"
        return (
            f"{self.steps} steps: {self.data_ms:.1f} ms for a batch (at most {self.worst_ms:.1f}), "
            f"{self.step_ms:.1f} ms for the step, so {100 * self.share:.1f} % is waiting: {verdict}"
        )


def from_log(path: str | Path) -> Waiting:
    """From the records of a training, each a mean over the logger's window.

    Args:
        path: What :func:`curves.read_log` takes. The first record is left out where there are
            others: in it the workers start.

    Raises:
        FileNotFoundError, ValueError: As ``read_log``; and if its records have no ``data_time``.
    """
    records = read_log(path).train
    times = np.array(
        [(r["data_time"], r["time"]) for r in records if "data_time" in r and "time" in r], dtype=float
    ).reshape(-1, 2)
    if not len(times):
        raise ValueError(f"{path}: its records have no data_time, which IterTimerHook writes")
    times = times[1:] if len(times) > 1 else times
    return _waiting(times[:, 0], times[:, 1] - times[:, 0])


def _waiting(data: np.ndarray, step: np.ndarray) -> Waiting:
    return Waiting(
        len(data), 1e3 * float(data.mean()), 1e3 * float(step.mean()), 1e3 * float(data.max())
    )


def try_out(cfg: Config, workers: int, steps: int) -> tuple[Waiting, float]:
    """Train a few steps, and load as many batches without training.

    Args:
        cfg: A config whose training data are there.
        workers: Processes that load data.
        steps: Steps, after two that are not counted, in which the workers start.

    Returns:
        The waiting in training, and the images per second that the workers deliver alone.

    Raises:
        ValueError: If the data have fewer batches than needed.
    """
    from mmdet.utils import register_all_modules
    from mmengine.optim import build_optim_wrapper
    from mmengine.runner import Runner

    from ..train.smoke import build_detector

    register_all_modules(init_default_scope=True)
    # mmengine would print a line for every parameter.
    MMLogger.get_current_instance().setLevel("WARNING")
    settings = cfg.train_dataloader
    settings["num_workers"] = workers
    settings["persistent_workers"] = False
    loader = Runner.build_dataloader(settings, seed=0)
    started = 2
    if len(loader) < steps + started:
        raise ValueError(
            f"the training data are {len(loader)} batches, too few for {steps} steps and {started} "
            "before them: give a smaller --steps"
        )
    images, seconds = _load(loader, steps, started)
    model = build_detector(cfg).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    waits, step_times = [], []
    last = time.perf_counter()
    for number, batch in enumerate(loader):
        arrived = time.perf_counter()
        model.train_step(batch, optimizer)
        now = time.perf_counter()
        if number >= started:
            waits.append(arrived - last)
            step_times.append(now - arrived)
        if number == steps + started - 1:
            break
        last = now
    return _waiting(np.array(waits), np.array(step_times)), images / seconds


def _load(loader: Any, steps: int, started: int) -> tuple[int, float]:
    """Images and seconds of ``steps`` batches after the first ``started``."""
    images, start = 0, 0.0
    for number, batch in enumerate(loader):
        if number == started - 1:
            start = time.perf_counter()
        elif number >= started:
            images += len(batch["inputs"])
        if number == steps + started - 1:
            break
    return images, time.perf_counter() - start
