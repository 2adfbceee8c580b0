"""Tables and pictures of the benchmark of learning, drawn from its results file alone (ours)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from .learning import CANDIDATES, TASKS
from .learning_runs import Result, average_of

_INK, _GRID = "#222222", "#eceff2"
_OURS = ("#c2410c", "#e8a33d", "#8f1d5c", "#5b4a9e", "#a8a29e")
_PEERS = ("#1f5fa8", "#3f8f8b", "#6b7280", "#7aa6d6")


@dataclass(frozen=True)
class Row:
    """A model on a processor.

    Attributes:
        results: One per seed, of the settings that are better on the pictures of choices.
        others: Those of the settings that were trained for the whole budget, too, one list per settings.
        trials: How many trials chose the settings, on any processor; None for a recipe of before, whose
            trials are not told from those of others.
        average: The moving average of the weights, a key of AVERAGES; None for a recipe of before.
    """

    results: list[Result]
    others: list[list[Result]]
    trials: int | None
    average: str | None

    @property
    def first(self) -> Result:
        """The first seed's result."""
        return self.results[0]

    @property
    def title(self) -> str:
        """The model's name in tables and pictures."""
        before = ", a recipe before" if self.average is None else ""
        if self.average not in (None, TASKS[self.first.task].ema):
            before = ", average of before"
        return f"{CANDIDATES[self.first.model].title}{before}"

    @property
    def select_ap(self) -> str:
        """AP on the pictures of choices, with that of the other settings."""
        text = _spread([r.select_ap for r in self.results])
        for other in self.others:
            ap = mean(r.select_ap for r in other)
            text += f"; {ap:.3f} with {other[0].lr:.3g}, {other[0].augmentation}"
        return text


def rows(results: Iterable[Result], task: str) -> list[Row]:
    """Reported results of a task: a row per model and processor, the best AP first.

    Where the moving average has changed since, or the rest of the recipe, the last results from before stand in
    its place, until there are new ones; models that no longer take part are left out.
    """
    trials = TASKS[task].of_trials.name
    tried: dict[str, set[tuple[str, str, int]]] = defaultdict(set)
    models: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.kind == "trial" and result.task == trials and average_of(result) is not None:
            tried[result.model].add(result.key)
        elif result.kind == "report" and result.task == task and result.model in CANDIDATES:
            models[result.model, result.cpu].append(result)
    found = [_row(same, len(tried[model])) for (model, _), same in models.items()]
    return sorted(found, key=lambda row: -mean(r.ap or 0.0 for r in row.results))


def _row(reports: Sequence[Result], trials: int) -> Row:
    """The row of one model on one processor, and how many trials its model had."""
    averages = [average_of(result) for result in reports]
    wanted = TASKS[reports[0].task].ema
    average = wanted if wanted in averages else next((a for a in averages if a is not None), None)
    shown = [result for result, its in zip(reports, averages, strict=True) if its == average]
    if average is None:
        shown = [r for r in reports if r.config_hash == reports[-1].config_hash]
    settings: dict[str, dict[int, Result]] = defaultdict(dict)
    for result in shown:
        # Of several results of one seed the last counts.
        settings[result.config_hash][result.seed] = result
    ranked = sorted(
        ([by_seed[seed] for seed in sorted(by_seed)] for by_seed in settings.values()),
        key=lambda seeds: -mean(r.select_ap for r in seeds),
    )
    return Row(ranked[0], ranked[1:], None if average is None else trials, average)


def table(results: Sequence[Result], tasks: Sequence[str] = tuple(TASKS)) -> str:
    """The reported rows as Markdown, a table per task that has any."""
    blocks = []
    for task in tasks:
        found = rows(results, task)
        if not found:
            continue
        lines = [
            f"**{TASKS[task].title}**",
            "",
            "| model | AP on val | AP50 on val | AP on the 200 | minutes | steps | learning rate | "
            "augmentation | trials | seeds | machine |",
            "| -- | -- | -- | -- | -- | -- | -- | -- | -- | -- | -- |",
        ]
        for row in found:
            seeds, first = row.results, row.first
            lines.append(
                f"| {row.title} | {_spread([r.ap or 0.0 for r in seeds])} | "
                f"{_spread([r.ap50 or 0.0 for r in seeds])} | {row.select_ap} | {first.minutes:g} | "
                f"{round(mean(r.iterations for r in seeds))} | {first.lr:.3g} | "
                f"{first.augmentation} | {'-' if row.trials is None else row.trials} | {len(seeds)} | "
                f"{first.cpu} |"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) or "There is no reported run yet: see the plan."


def _spread(values: Sequence[float]) -> str:
    """The mean, and with several seeds their lowest and highest."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def plot(results: Sequence[Result], task: str, out_png: str | Path) -> Path:
    """AP on the pictures of choices against minutes of training, a line per row of the table.

    Args:
        results: All results.
        task: Key of the tasks.
        out_png: The picture; missing folders are made.

    Returns:
        Its path.

    Raises:
        ValueError: If the task has no reported run.
    """
    found = rows(results, task)
    if not found:
        raise ValueError(f"there is no reported run of {task} to draw yet")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Labels of many rows need the height.
    height = max(4.8, 0.6 * len(found))
    figure = Figure(figsize=(8.4, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = {True: list(_OURS), False: list(_PEERS)}
    ends: list[tuple[float, float, str, str, str]] = []
    # Minutes of one machine are not those of another.
    mixed = len({row.first.cpu for row in found}) > 1
    for row in found:
        ours = CANDIDATES[row.first.model].ours
        colour = colours[ours].pop(0) if colours[ours] else _INK
        x, y = _mean_curve(row.results)
        axes.plot(x, y, color=colour, linewidth=2.2 if ours else 1.6,
                  linestyle="-" if ours else (0, (5, 2)), marker="o", markersize=3)
        machine = f"\n{row.first.cpu}" if mixed else ""
        ends.append((float(x[-1]), float(y[-1]), row.title, machine, colour))
    right = max(end[0] for end in ends)
    top = max(max(ap for _, ap in r.curve) for row in found for r in row.results)
    axes.set_xlim(0, right)
    limit = max(top * 1.1, 0.01)
    axes.set_ylim(0, limit)
    _label_ends(axes, ends, right, limit / height)
    axes.set_xlabel("minutes of training, without validation")
    axes.set_ylabel("COCO AP on 200 pictures split off the training set")
    axes.set_title(f"From scratch: {TASKS[task].title}", loc="left", color=_INK, fontsize=11)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def _mean_curve(seeds: Sequence[Result]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(minutes, AP) of the mean over seeds, from (0, 0)."""
    length = min(len(result.curve) for result in seeds)
    stack = np.array([result.curve[:length] for result in seeds], dtype=float)
    curve = stack.reshape(len(seeds), length, 2).mean(axis=0)
    return np.concatenate(([0.0], curve[:, 0])), np.concatenate(([0.0], curve[:, 1]))


def _label_ends(
    axes: Any, ends: list[tuple[float, float, str, str, str]], right: float, ap_per_inch: float
) -> None:
    """Each line's name, and what goes below it, right of its end; those at one place are moved apart."""
    inches = 0.48 if any(end[3] for end in ends) else 0.264
    gap = inches * ap_per_inch
    places: dict[int, float] = {}
    for x, y, name, below, colour in sorted(ends, key=lambda end: end[1]):
        column = round(20 * x / right)
        places[column] = max(y, places.get(column, -gap / 2) + gap)
        axes.annotate(
            f"{name}  {y:.3f}{below}",
            (x, y),
            xytext=(x + 0.015 * right, places[column]),
            color=colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            # Longer runs go on below the names of shorter ones.
            bbox=dict(boxstyle="square,pad=0.1", facecolor="white", edgecolor="none", alpha=0.85),
        )
