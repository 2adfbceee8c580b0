"""The course of a training: reads mmengine's logs and draws loss and COCO AP in one picture."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_EPOCH_LINE = re.compile(r"Epoch\(train\)\s*\[\s*\d+\]\[\s*\d+/(\d+)\]")
_INK, _FAINT, _LOSS, _AP, _AP50 = "#222222", "#cfd4da", "#1f5fa8", "#c2410c", "#e8a33d"


@dataclass
class TrainingLog:
    """The records of one training, resumed or not, in order.

    Attributes:
        train: one dict per logged training step, with 'iter' (1-based, counted over the whole
            training), 'loss' and, in epoch-based training, 'epoch' (1-based).
        val: one dict per validation, with 'step': the epoch, or else the iteration.
        by_epoch: whether training is epoch-based.
        epoch_length: iterations per epoch; None in iteration-based training.
        files: the log files read, oldest first.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)
    by_epoch: bool = False
    epoch_length: int | None = None
    files: list[Path] = field(default_factory=list)

    def loss(self) -> tuple[np.ndarray, np.ndarray]:
        """(x [N], loss [N]) of the training steps; x is in epochs or iterations. NaN stays."""
        scale = self.epoch_length or 1
        x = np.array([record["iter"] / scale for record in self.train], dtype=float)
        return x, np.array([record["loss"] for record in self.train], dtype=float)

    def metric(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(x [N], value [N]) of a COCO metric: 'bbox_mAP' finds 'coco/bbox_mAP' too."""
        points = []
        for record in self.val:
            value = next((v for k, v in record.items() if k.split("/")[-1] == name), None)
            if value is not None and value >= 0:  # COCO's -1: there was nothing to measure
                points.append((float(record["step"]), float(value)))
        xy = np.array(points, dtype=float).reshape(-1, 2)
        return xy[:, 0], xy[:, 1]


def read_log(path: str | Path) -> TrainingLog:
    """Reads the scalars of a training.

    Args:
        path: a scalars file (``<run>/vis_data/scalars.json``), the directory of a run, or a
            work_dir. In a work_dir all runs are joined in the order of their time stamps: from its
            own first step on a later run replaces the earlier ones, so a resumed run continues the
            curve and a run from scratch starts it anew. Runs without training steps are skipped.

    Raises:
        FileNotFoundError: there is no such path, or no log under it.
        ValueError: a log is damaged, or no file has a training step.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"'{path}' does not exist: give a work_dir or a scalars.json.")
    log = TrainingLog()
    for file in _log_files(path):
        records = _read_json_lines(file)
        train = [r for r in records if "loss" in r and ("iter" in r or "step" in r)]
        if not train:
            continue
        for record in train:
            record["iter"] = record.get("iter", record.get("step"))
        by_epoch = "epoch" in train[0]
        first, first_epoch = train[0]["iter"], train[0].get("epoch", 0)
        log.train = [r for r in log.train if r["iter"] < first] + train
        start = first_epoch if by_epoch else first
        val = [r for r in records if "loss" not in r and "step" in r and r["step"] > 0]
        log.val = [r for r in log.val if r["step"] < start] + val
        log.by_epoch = by_epoch
        log.files.append(file)
    if not log.train:
        raise ValueError(f"'{path}' has no record of a training step yet: train first.")
    log.train.sort(key=lambda r: r["iter"])
    if log.by_epoch:
        log.epoch_length = _epoch_length(log)
    return log


def plot_curves(work_dir: str | Path, out_png: str | Path) -> Path:
    """Draws the loss (raw faint, smoothed strong) and below it COCO AP and AP50 over the training.

    Args:
        work_dir: what ``read_log`` takes.
        out_png: the picture; missing directories are made.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError, ValueError: as ``read_log``.
    """
    log = read_log(work_dir)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    x, loss = log.loss()
    finite = np.isfinite(loss)
    curves = [
        (label, colour, *log.metric(name))
        for name, label, colour in (
            ("bbox_mAP_50", "AP50", _AP50),
            ("bbox_mAP", "AP", _AP),
        )
    ]
    has_ap = any(len(xs) for _, _, xs, _ in curves)

    # A Figure of its own canvas: no pyplot, so no global state and no display.
    figure = Figure(figsize=(8, 6.4 if has_ap else 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if has_ap else 1, 1, sharex=True, squeeze=False)[:, 0]

    top = axes[0]
    top.plot(x[finite], loss[finite], color=_FAINT, linewidth=1, label="loss as logged")
    top.plot(x[finite], smooth(loss[finite]), color=_LOSS, linewidth=2, label="loss, smoothed")
    if not finite.all():
        at = x[~finite]
        bottom_edge = top.get_xaxis_transform()
        top.plot(at, np.full(len(at), 0.02), "rx", transform=bottom_edge, label="NaN or inf")
    top.set_ylabel("training loss (sum of all terms)")
    top.set_ylim(*_loss_limits(loss[finite]))
    top.legend(frameon=False, loc="upper right")
    top.set_title(f"Training of {_title(work_dir)}", loc="left", color=_INK, fontsize=11)

    if has_ap:
        bottom = axes[1]
        for label, colour, xs, ys in curves:
            if len(xs):
                bottom.plot(xs, ys, "o-", color=colour, linewidth=2, markersize=3.5, label=label)
        highest = max(float(ys.max()) for _, _, _, ys in curves if len(ys))
        bottom.set_ylim(0, max(min(1.0, highest * 1.3), 0.01))
        _annotate_final(bottom, [(c, xs, ys) for _, c, xs, ys in curves if len(xs)])
        bottom.set_ylabel("COCO AP on validation")
        bottom.legend(frameon=False, loc="upper left")
    axes[-1].set_xlabel("epoch" if log.by_epoch else "iteration")
    axes[-1].set_xlim(left=0)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        axis.grid(color="#eceff2")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Gaussian mean over neighbours; sigma is ``share`` of the points, at least 1, at most 50."""
    count = len(values)
    sigma = min(max(count * share, 1.0), 50.0)
    radius = min(math.ceil(3 * sigma), max(count - 1, 0))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    # Divided by the weights inside the range, so the ends are not pulled towards zero.
    total = np.convolve(values, kernel)[radius : radius + count]
    weight = np.convolve(np.ones(count), kernel)[radius : radius + count]
    smoothed: np.ndarray = total / weight
    return smoothed


def _loss_limits(loss: np.ndarray) -> tuple[float, float]:
    """From 0 to a little above nearly all points: one first spike must not flatten the curve."""
    if not len(loss):
        return 0.0, 1.0
    high = max(float(np.percentile(loss, 99)), float(smooth(loss).max()))
    return min(0.0, float(loss.min())), high * 1.08 + 1e-12


def _annotate_final(axis: Any, curves: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Writes each curve's last value beside its last point."""
    for colour, xs, ys in curves:
        axis.annotate(
            f"{ys[-1]:.3f}",
            (xs[-1], ys[-1]),
            xytext=(-4, 7),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontweight="bold",
        )


def _title(work_dir: str | Path) -> str:
    path = Path(work_dir).resolve()
    if path.is_file():
        path = path.parent.parent
    return path.name


def _log_files(path: Path) -> list[Path]:
    """One scalar log per run, oldest first: the run's directory is named by its time stamp."""
    if path.is_file():
        return [path]
    if (path / "vis_data").is_dir():
        runs = [path / "vis_data"]
    elif path.name == "vis_data":
        runs = [path]
    else:
        runs = sorted(path.glob("*/vis_data"), key=lambda p: p.parent.name)
    files = []
    for run in runs:
        # scalars.json and <time stamp>.json say the same; test runs leave only other files.
        candidates = [run / "scalars.json", *sorted(run.glob("*.json"))]
        files += [file for file in candidates if file.is_file()][:1]
    if not files:
        raise FileNotFoundError(
            f"'{path}' has no log (<run>/vis_data/scalars.json): give the work_dir of a training."
        )
    return files


def _read_json_lines(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):  # a process killed while writing leaves half a line
                break
            raise ValueError(f"line {number} of '{file}' is not a log record: {error}.") from error
        records.append(record)
    return records


def _epoch_length(log: TrainingLog) -> int:
    """Iterations per epoch: as the text log says, else from the bounds (e - 1) L < iter <= e L."""
    for file in reversed(log.files):
        for text in sorted(file.parent.parent.glob("*.log"), reverse=True):
            match = _EPOCH_LINE.search(text.read_text(encoding="utf-8", errors="replace"))
            if match:
                return int(match.group(1))
    return max(_ceil_div(r["iter"], r["epoch"]) for r in _positive(log.train))


def _positive(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in records if r["epoch"] > 0]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
