"""Tables and pictures of the benchmark of learning, drawn from its results file alone (ours)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from .learning import CANDIDATES, TASKS
from .learning_runs import Result

_INK, _GRID = "#222222", "#eceff2"
_OURS = ("#c2410c", "#e8a33d", "#8f1d5c", "#5b4a9e", "#a8a29e")
_PEERS = ("#1f5fa8", "#3f8f8b", "#6b7280", "#7aa6d6")


def rows(results: Iterable[Result], task: str) -> list[list[Result]]:
    """Reported results of a task: a list per model, one result per seed, the best AP first.

    Of several results of one model and seed the last counts; models that no longer take part are left out.
    """
    latest: dict[tuple[str, int], Result] = {}
    for result in results:
        if result.kind == "report" and result.task == task and result.model in CANDIDATES:
            latest[result.model, result.seed] = result
    models: dict[str, list[Result]] = defaultdict(list)
    for (model, _), result in sorted(latest.items(), key=lambda item: item[0]):
        models[model].append(result)
    return sorted(models.values(), key=lambda found: -mean(r.ap or 0.0 for r in found))


def trials_of(results: Iterable[Result], row: Result) -> int:
    """Trials that chose a row's settings.

    They are those of its model, task and processor (others' minutes are others) since its last row before,
    which was of an older recipe.
    """
    same = [r for r in results if (r.task, r.model, r.cpu) == (row.task, row.model, row.cpu)]
    older = [
        r.finished for r in same
        if r.kind == "report" and r.config_hash != row.config_hash and r.finished < row.finished
    ]
    since = max(older, default="")
    return len({
        r.key
        for r in same
        if r.kind == "trial" and r.finished <= row.finished and not (since and r.finished <= since)
    })


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
        for seeds in found:
            first = seeds[0]
            lines.append(
                f"| {_title(first.model)} | {_spread([r.ap or 0.0 for r in seeds])} | "
                f"{_spread([r.ap50 or 0.0 for r in seeds])} | "
                f"{_spread([r.select_ap for r in seeds])} | {first.minutes:g} | "
                f"{round(mean(r.iterations for r in seeds))} | {first.lr:.3g} | "
                f"{first.augmentation} | {trials_of(results, first)} | {len(seeds)} | "
                f"{' and '.join(sorted({r.cpu for r in seeds}))} |"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) or "There is no reported run yet: see the plan."


def _title(model: str) -> str:
    return CANDIDATES[model].title


def _spread(values: Sequence[float]) -> str:
    """The mean, and with several seeds their lowest and highest."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def plot(results: Sequence[Result], task: str, out_png: str | Path) -> Path:
    """AP on the pictures of choices against minutes of training, a line per reported model.

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

    figure = Figure(figsize=(8.4, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = {True: list(_OURS), False: list(_PEERS)}
    ends: list[tuple[float, float, str, str, str]] = []
    # Minutes of one machine are not those of another.
    mixed = len({result.cpu for seeds in found for result in seeds}) > 1
    for seeds in found:
        candidate = CANDIDATES.get(seeds[0].model)
        ours = candidate is None or candidate.ours
        colour = colours[ours].pop(0) if colours[ours] else _INK
        x, y = _mean_curve(seeds)
        axes.plot(x, y, color=colour, linewidth=2.2 if ours else 1.6,
                  linestyle="-" if ours else (0, (5, 2)), marker="o", markersize=3)
        machine = f"\n{seeds[0].cpu}" if mixed else ""
        ends.append((float(x[-1]), float(y[-1]), _title(seeds[0].model), machine, colour))
    right = max(end[0] for end in ends)
    top = max(max(ap for _, ap in r.curve) for seeds in found for r in seeds)
    axes.set_xlim(0, right)
    axes.set_ylim(0, max(top * 1.1, 0.01))
    _label_ends(axes, ends, right, max(top * 1.1, 0.01))
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
    axes: Any, ends: list[tuple[float, float, str, str, str]], right: float, top: float
) -> None:
    """Each line's name, and what goes below it, right of its end; those at one place are moved apart."""
    gap = (0.1 if any(end[3] for end in ends) else 0.055) * top
    places: dict[int, float] = {}
    for x, y, name, below, colour in sorted(ends, key=lambda end: end[1]):
        column = round(20 * x / right)
        places[column] = max(y, places.get(column, -1.0) + gap)
        axes.annotate(
            f"{name}  {y:.3f}{below}",
            (x, y),
            xytext=(x + 0.015 * right, places[column]),
            color=colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )
