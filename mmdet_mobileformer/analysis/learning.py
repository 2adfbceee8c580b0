"""The benchmark of learning as data: tasks, models, augmentations, and what a run is (ours).

How good is a detector after so many minutes of training from scratch on so many cores? Everyone gets
the same pictures, input size, minutes, schedule (by the clock), moving average, menu of augmentations
and number of trials; the model, its losses and its optimizer are each config's own.

Choices are made on 200 pictures that are split off the training set, by their id alone. Validation
pictures are read once per reported row, after its training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..data.shapes import CLASSES as SHAPES

#: Pictures of the training set that choices are made on.
SELECT = 200
#: Images of a step, over all processes.
BATCH = 16
#: Points of a reported run's curve, at even shares of the time. Of other runs the end alone counts: ten
#: validations of a trial take almost as long as its half.
POINTS = 10
#: Augmentations that become ``'crop'``, and after which share of the time: mosaic and mixup end, pictures grow.
CROP_FROM = {"mosaic": 0.85, "growing": 0.6}


@dataclass(frozen=True)
class Task:
    """A data set, a size and a budget.

    Attributes:
        name: Its name in commands and results.
        title: Its name in tables and pictures.
        data: ``'shapes'`` (the embedded set) or ``'coco_mini'`` (a part of COCO in its layout).
        size: Longest side of the input in pixels.
        minutes: Budget of a reported run, on all cores together.
        trial_minutes: Budget of a trial of a learning rate or an augmentation.
        classes: The classes; empty for COCO's 80.
        needs_boxes: Whether pictures without a box are left out of training.
        finalists: How many of the best trials are trained for the whole budget. What is ahead after a sixth of
            it, by a little, can be far behind at its end; but half an hour for each adds up.
        like: Task whose trials choose the settings here too: as many pictures of the same size, which minutes
            of trials teach nothing yet. Empty for trials of its own.
        ema: The moving average of everyone's weights in a reported run: key of :data:`AVERAGES`. Trials have the
            first one everywhere.
    """

    name: str
    title: str
    data: str
    size: int
    minutes: float
    trial_minutes: float
    classes: tuple[str, ...] = ()
    needs_boxes: bool = False
    finalists: int = 1
    like: str = ""
    ema: str = "steps"

    @property
    def of_trials(self) -> Task:
        """The task whose trials choose the settings."""
        return TASKS[self.like] if self.like else self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by name."""
        if self.classes:
            return self.classes
        from mmdet.datasets import CocoDataset

        return tuple(CocoDataset.METAINFO["classes"])


TASKS = {
    task.name: task
    for task in (
        Task("shapes", "embedded set, 160 px", "shapes", 160, 15, 2.5, SHAPES, finalists=2, ema="share"),
        # Every eighth picture has no person, and few steps are not to be spent on it.
        Task("person", "coco_mini, person, 256 px", "coco_mini", 256, 30, 5, ("person",), True),
        Task("coco80", "coco_mini, 80 classes, 256 px", "coco_mini", 256, 60, 5, like="person"),
    )
}


@dataclass(frozen=True)
class Source:
    """Where a data set's training and validation pictures are, below its root."""

    train: tuple[str, str]
    val: tuple[str, str]


SOURCES = {
    "shapes": Source(
        ("annotations/instances_train.json", "train"), ("annotations/instances_val.json", "val")
    ),
    "coco_mini": Source(
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_val2017.json", "val2017"),
    ),
}


@dataclass(frozen=True)
class Candidate:
    """A detector that takes part.

    Attributes:
        name: Its name in commands and results.
        title: Its name in tables and pictures.
        config: Path below ``configs/``, without ``.py``; model and optimizer are taken from it.
        ours: Whether it is ours or mmdet's.
        lr_factors: Learning rates of the first trials, as multiples of the config's. One alone
            means no trials: the recipe is taken as it is published.
        tasks: Tasks it takes part in; empty for all.
        minutes: Budget in place of the task's; None for that.
    """

    name: str
    title: str
    config: str
    ours: bool
    lr_factors: tuple[float, ...] = (1.0, 0.5, 2.0)
    tasks: tuple[str, ...] = ()
    minutes: float | None = None


_FOLDER = "benchmarks/learning/"
CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate("e2emf_52m_fast", "E2E-MF-52M, fast recipe", f"{_FOLDER}e2emf_52m_fast", True),
        Candidate("rtmdet_tiny", "RTMDet-tiny", f"{_FOLDER}rtmdet_tiny", False),
        Candidate(
            "rtmdet_mf_52m", "RTMDet-tiny on Mobile-Former-52M", f"{_FOLDER}rtmdet_mf_52m", True
        ),
        Candidate("yolox_tiny", "YOLOX-tiny", f"{_FOLDER}yolox_tiny", False),
        Candidate("retinanet_r18", "RetinaNet-R18", f"{_FOLDER}retinanet_r18", False),
        Candidate(
            "conditional_detr_r18", "Conditional DETR-R18", f"{_FOLDER}conditional_detr_r18", False
        ),
        Candidate("e2emf_demo", "E2E-MF of make demo", "e2emf_demo", True, tasks=("shapes",)),
        # For machines on which the budget has thousands of steps.
        Candidate(
            "e2emf_96m_demo", "E2E-MF-96M, demo's recipe", f"{_FOLDER}e2emf_96m_demo", True, tasks=("shapes",)
        ),
        Candidate(
            "e2emf_96m_fine", "E2E-MF-96M, fast recipe", f"{_FOLDER}e2emf_96m_fine", True, tasks=("person",)
        ),
        # The goal: what this does not reach in 3 hours, the fast recipe reaches in 30 minutes.
        # Two hours leave time for the rest of a session of three.
        *(
            Candidate(
                f"e2emf_96m_paper_{hours}h", f"E2E-MF-96M, paper's recipe, {hours} h", f"{_FOLDER}e2emf_96m_paper",
                True, (1.0,), ("person",), 60 * hours,
            )
            for hours in (2, 3)
        ),
    )
}

#: The menu of augmentations, which is the same for everyone. The first is that of the trials of
#: learning rates and of recipes without trials.
AUGMENTATIONS = ("crop", "flip", "mosaic", "growing")
#: Mosaic to the last step: for the ablation alone.
ALL_AUGMENTATIONS = (*AUGMENTATIONS, "mosaic_to_the_end")


#: Moving averages of the weights: over about 500 steps, and over about a tenth of the steps so far. Where a
#: fast machine takes thousands of steps, queries that join late would stand in the former half learned.
AVERAGES = {
    "steps": dict(ema_type="ExpMomentumEMA", momentum=0.002, gamma=200),
    "share": dict(ema_type="MomentumAnnealingEMA", momentum=1e-4, gamma=10),
}


@dataclass(frozen=True)
class Run:
    """One training, with all that was chosen for it.

    Attributes:
        kind: ``'trial'`` (a choice), ``'report'`` (a row of the table) or ``'ablation'``.
        task: Key of :data:`TASKS`.
        model: What the results call it: key of :data:`CANDIDATES`, or the variant of an ablation.
        config: As in :class:`Candidate`.
        lr: Highest learning rate.
        augmentation: One of :data:`AUGMENTATIONS`.
        seed: Seed of weights and data.
        minutes: Budget.
        processes: Processes of ``threads`` threads each, over which a step's images are shared.
        threads: Threads of a process.
        options: Overrides of the config's ``model`` and ``optim_wrapper``, as ``--cfg-options``.
        ema: Which moving average of the weights is validated: key of :data:`AVERAGES`; empty for none.
    """

    kind: str
    task: str
    model: str
    config: str
    lr: float
    augmentation: str = AUGMENTATIONS[0]
    seed: int = 0
    minutes: float = 1.0
    processes: int = 2
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    ema: str = "steps"

    @property
    def label(self) -> str:
        """One line for the user."""
        return (
            f"{self.kind:8s} {self.task:7s} {self.model:28s} lr {self.lr:<8.3g} "
            f"{self.augmentation:17s} seed {self.seed}  {self.minutes:g} min"
        )


@dataclass(frozen=True)
class Places:
    """Where the data is.

    Attributes:
        root: Folder of pictures and annotations.
        split: Folder of ``fit.json`` and ``select.json``, see
            :func:`~.learning_config.split_training_set`.
    """

    root: str
    split: str


#: Stands for the folders in the hash of a config, which is the same on every machine.
NOWHERE = Places("DATA", "SPLIT")
