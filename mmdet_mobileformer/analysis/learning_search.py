"""Which runs of the benchmark of learning are missing: the same search for every model (ours)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .learning import AUGMENTATIONS, CANDIDATES, TASKS, Candidate, Run
from .learning_config import base_lr
from .learning_runs import Result, Settings, find, known

#: Learning rates that are tried at most, when the best is the largest or smallest of the first ones.
MOST_LRS = 5
#: Score of a trial that diverged.
DIVERGED = -1.0


class Search:
    """The runs of one model on one task: learning rates, augmentations, reported rows.

    The learning rates of the first trials are the config's, half and twice of it. While the best is
    the largest or the smallest, one beyond it is tried too. Then all augmentations at the best learning
    rate. The best of these, by AP50, are trained for the whole budget, as many as the task has finalists; the
    best of them on the pictures of choices is the reported row (:func:`~.learning_report.rows`). A task may
    take its settings from the trials of another.

    Trials that are compared with each other are of one processor, since another does more steps in the same
    minutes: whichever has all of them, this machine's first.

    Args:
        task: Key of the tasks.
        candidate: The model.
        results: What is known.
        settings: Common settings.
    """

    def __init__(
        self,
        task: str,
        candidate: Candidate,
        results: Iterable[Result],
        settings: Settings | None = None,
    ) -> None:
        self.task = TASKS[task]
        self.candidate = candidate
        self.settings = settings or Settings()
        results = list(results)
        cpu = self.settings.cpu
        self.reports = known(r for r in results if r.kind == "report" and cpu in (None, r.cpu))
        here = self.settings.here
        #: Trials by processor.
        self.trials = {
            one: known(r for r in results if r.kind == "trial" and r.cpu == one)
            for one in (here, *sorted({r.cpu for r in results} - {here}))
        }
        self.base = base_lr(candidate.config)

    def missing(self) -> list[Run]:
        """The runs that can be done now; empty if all are done. More may follow from them."""
        if len(self.candidate.lr_factors) == 1:
            return self._missing_of(self._reports([(self.candidate.lr_factors[0], AUGMENTATIONS[0])]))
        factors = list(self.candidate.lr_factors)
        while True:
            trials = [self._run("trial", factor) for factor in factors]
            scores = self._scores(trials)
            if scores is None:
                return self._missing_here(trials)
            best = factors[scores.index(max(scores))]
            if len(factors) >= MOST_LRS or best not in (max(factors), min(factors)):
                break
            factors.append(best * 2 if best == max(factors) else best / 2)
        trials = [self._run("trial", best, name) for name in AUGMENTATIONS]
        scores = self._scores(trials)
        if scores is None:
            return self._missing_here(trials)
        ranked = sorted(range(len(trials)), key=lambda place: -scores[place])
        finalists = [place for place in ranked if scores[place] != DIVERGED][: self.task.finalists]
        return self._missing_of(self._reports([(best, AUGMENTATIONS[place]) for place in finalists]))

    def minutes_after(self) -> float:
        """Minutes of training that follow, at least, on the runs that can be done now."""
        missing = self.missing()
        if not missing or missing[0].kind == "report":
            return 0.0
        report = self._run("report", 1.0).minutes * len(self.settings.seeds) * self.task.finalists
        # Trials of another task stand with that one.
        first = {run.augmentation for run in missing} == {AUGMENTATIONS[0]} and not self.task.like
        return report + (missing[0].minutes * (len(AUGMENTATIONS) - 1) if first else 0)

    def _run(
        self, kind: str, factor: float, augmentation: str = AUGMENTATIONS[0], seed: int = 0
    ) -> Run:
        task = self.task if kind == "report" else self.task.of_trials
        full = self.candidate.minutes or task.minutes
        minutes = self.settings.minutes or (full if kind == "report" else task.trial_minutes)
        return Run(
            kind, task.name, self.candidate.name, self.candidate.config, self.base * factor,
            augmentation, seed, minutes, self.settings.processes, self.settings.threads,
            ema=task.ema if kind == "report" else "steps",
        )

    def _reports(self, settings: Iterable[tuple[float, str]]) -> list[Run]:
        return [self._run("report", *setting, seed) for setting in settings for seed in self.settings.seeds]

    def _missing_of(self, reports: Iterable[Run]) -> list[Run]:
        return [run for run in reports if find(run, self.reports) is None]

    def _missing_here(self, trials: Iterable[Run]) -> list[Run]:
        return [run for run in trials if find(run, self.trials[self.settings.here]) is None]

    def _scores(self, trials: Sequence[Run]) -> list[float] | None:
        """Scores of trials of one processor; None if none has all of them."""
        for done in self.trials.values():
            results = [result for run in trials if (result := find(run, done)) is not None]
            if len(results) == len(trials):
                return [DIVERGED if r.diverged else r.select_ap50 for r in results]
        return None


def chosen(
    tasks: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    lr_factors: Sequence[float] | None = None,
) -> list[tuple[str, Candidate]]:
    """Pairs of a task and a model that takes part in it, in the order of the plan.

    Args:
        tasks: Keys of the tasks; None for all.
        models: Keys of the candidates; None for all.
        lr_factors: First trials in place of the candidates' own, of those that have trials.

    Raises:
        ValueError: If a name is unknown, or there are fewer than three learning rates.
    """
    for kind, names, known_names in (("task", tasks, TASKS), ("model", models, CANDIDATES)):
        for name in names or ():
            if name not in known_names:
                raise ValueError(f"there is no {kind} {name!r}: choose of {', '.join(known_names)}")
    if lr_factors is not None and len(set(lr_factors)) < 3:
        raise ValueError("--lrs needs at least three different learning rates: give three multiples")
    pairs = []
    for task in tasks or TASKS:
        for candidate in (CANDIDATES[name] for name in models or CANDIDATES):
            if candidate.tasks and task not in candidate.tasks:
                continue
            if lr_factors is not None and len(candidate.lr_factors) > 1:
                candidate = replace(candidate, lr_factors=tuple(lr_factors))
            pairs.append((task, candidate))
    return pairs


def describe(searches: Sequence[Search]) -> str:
    """The runs that can be done now, and how long all that is missing takes at least."""
    lines: list[str] = []
    total = 0.0
    for search in searches:
        # Another task's search may have the same trials.
        missing = [run for run in search.missing() if run.label not in lines]
        after = search.minutes_after()
        total += sum(run.minutes for run in missing) + after
        lines += [run.label for run in missing]
        if after:
            whose = f"{search.task.name} {search.candidate.name}"
            lines.append(f"  ... then at least {after:g} minutes more for {whose}")
    lines.append(f"{total / 60:.1f} hours at least" if total else "all runs are done")
    return "\n".join(lines)
