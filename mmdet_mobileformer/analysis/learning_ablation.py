"""The ablation of the fast recipe and of the paper's switches, as runs of the benchmark (ours).

Every part of the recipe is left out alone, and put alone onto the same model without any of them. The
measure is AP on the 200 pictures of choices: what is chosen here must not have seen the validation set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from .learning import TASKS, Run
from .learning_config import base_lr
from .learning_runs import Result, find, known

#: The recipe whose parts are measured: that of ``make demo``, on the task where minutes are enough to tell.
CONFIG = "e2emf_demo"
#: But all of it learns from the first step, in every variant: what the wait brings is a row of its own.
TOGETHER = {"model.dense_first": 0}
TASK = "shapes"
MINUTES = 10.0
#: What trials chose for it (docs/learning/results.jsonl).
AUGMENTATION = "flip"
#: Seeds of the whole recipe, and of every other variant.
BASE_SEEDS = (0, 1, 2)
SEEDS = (0,)

#: The parts of the recipe, with what is there in their place.
PARTS = {
    "quality": "quality focal loss (or softmax)",
    "denoising": "denoising queries (or none)",
    "dense": "dense auxiliary head (or none)",
    "near": "boxes near an object learn it, matched or not (or matched ones alone)",
    "near_classes": "and of all but the last two predictions the class (or matched ones alone)",
    "boxes": "reference boxes (or learned queries)",
    "rivals": "queries see better ones on their object (or learn to tell)",
    "read": "boxes are read from the finest map, too (or told by contents alone)",
    "init": "queries start on one grid (or at several sizes; without boxes: or as usual)",
    "no_decay": "no decay of norms, biases, tokens, queries (or of nothing)",
    "no_dropout": "no dropout (or 0.1)",
    "muon": "Muon for matrices, AdamW for the rest (or AdamW for all)",
    "ema": "moving average of the weights (or the weights themselves)",
}
#: Parts that need the queries' boxes, by the option of the head that they are.
_OF_BOXES = {"rivals": "rivals", "read": "read_boxes"}
#: Parts that need others, and those.
_NEEDS = {**{part: {"boxes"} for part in _OF_BOXES}, "near_classes": {"near", "quality"}}
#: AdamW's learning rate as a share of MuonAdamW's: the one that trials chose while the recipe had AdamW
#: (docs/learning/results.jsonl).
ADAMW_LR = 1 / 2

_SOFTMAX = dict(
    _delete_=True, type="CrossEntropyLoss", bg_cls_weight=0.1, use_sigmoid=False, loss_weight=1.0
)
_SOFTMAX_COSTS = [
    dict(type="ClassificationCost", weight=1.0),
    dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
    dict(type="IoUCost", iou_mode="giou", weight=2.0),
]


def options_of(active: Iterable[str]) -> dict[str, Any]:
    """Overrides of the recipe's config that leave only some of its parts.

    Args:
        active: Keys of :data:`PARTS`. ``ema`` is no option of the config: see :class:`Variant`.

    Raises:
        ValueError: If a part is unknown.
    """
    parts = set(active)
    if unknown := parts - set(PARTS):
        raise ValueError(f"there is no part {min(unknown)!r}: choose of {', '.join(PARTS)}")
    head = "model.bbox_head."
    options: dict[str, Any] = {}
    if "quality" not in parts:
        options[f"{head}loss_cls"] = _SOFTMAX
        options["model.train_cfg.assigner.match_costs"] = _SOFTMAX_COSTS
    if "denoising" not in parts:
        options[f"{head}denoising"] = None
    if "near" not in parts:
        options[f"{head}near"] = None
    if not {"near_classes", *_NEEDS["near_classes"]} <= parts:
        options[f"{head}near_classes"] = 0
    if "dense" not in parts:
        options["model.aux_head"] = None
    if "boxes" not in parts:
        options[f"{head}reference_boxes"] = False
        options[f"{head}size_aware"] = False
        if "init" in parts:
            options[f"{head}query_init"] = "grid"
    elif "init" not in parts:
        options[f"{head}reference_boxes"] = "pyramid"
    for part, option in _OF_BOXES.items():
        if not {"boxes", part} <= parts:
            options[f"{head}{option}"] = False
    if "no_decay" not in parts:
        options["optim_wrapper.paramwise_cfg"] = dict(_delete_=True)
    if "muon" not in parts:
        options["optim_wrapper.optimizer.type"] = "AdamW"
    if "no_dropout" not in parts:
        options[f"{head}dropout"] = 0.1
    return options


@dataclass(frozen=True)
class Variant:
    """One row of the ablation.

    Attributes:
        name: Its name in the results.
        title: What it is, for the table.
        group: Heading in the table.
        options: Overrides of the recipe's config, beside :data:`TOGETHER`.
        augmentation: As in :class:`~mmdet_mobileformer.analysis.learning.Run`.
        ema: Whether a moving average of the weights is validated.
    """

    name: str
    title: str
    group: str
    options: Mapping[str, Any]
    augmentation: str = AUGMENTATION
    ema: bool = True

    @property
    def lr_factor(self) -> float:
        """Its learning rate as a multiple of the recipe's."""
        return ADAMW_LR if self.options.get("optim_wrapper.optimizer.type") == "AdamW" else 1.0


def variants() -> dict[str, Variant]:
    """All rows, what tells most first: the recipe, each part left out, the paper's switches, each alone, additions."""
    whole = set(PARTS)
    made = [
        Variant("fast", "the whole recipe, queries from the first step", "recipe", {}),
        Variant("plain", "none of its parts", "recipe", options_of(()), ema=False),
    ]
    for part, title in PARTS.items():
        without = whole - {part}
        made.append(
            Variant(f"without_{part}", title, "left out", options_of(without), ema=part != "ema")
        )
    head = "model.bbox_head."
    one_scale = {
        "model.backbone.out_indices": (3,),
        f"{head}scales": (32,),
        f"{head}num_blocks": (4,),
        f"{head}sides": ("transformer",),
        "model.aux_head.strides": (32,),
        "model.aux_head.regress_ranges": ((-1, 1e8),),
    }
    group = "the paper's switches, in the recipe"
    made += [
        Variant("one_scale", "one scale instead of three", group, one_scale),
        Variant("shared_position", "shared instead of adaptive position", group,
                {f"{head}position": "shared"}),
        Variant("first_token", "first-token instead of spatial-aware dynamic ReLU", group,
                {"model.backbone.dynamic_relu": "first-token"}),
        Variant("tokens_1", "1 token instead of 4", group, {"model.backbone.num_tokens": 1}),
        Variant("tokens_6", "6 tokens instead of 4", group, {"model.backbone.num_tokens": 6}),
    ]
    for part, title in PARTS.items():
        needed = _NEEDS.get(part, set())
        kept = {part} | needed
        if needed:
            title = f"{title}, with {' and '.join(sorted(needed))}"
        made.append(Variant(f"only_{part}", title, "alone", options_of(kept), ema=part == "ema"))
    group = "added to the recipe or changed in it"
    varifocal = dict(_delete_=True, type="VarifocalQualityLoss", loss_weight=2.0)
    made += [
        Variant("varifocal", "varifocal instead of quality focal loss", group,
                {f"{head}loss_cls": varifocal}),
        Variant("groups_2", "two further groups of queries, one to many", group,
                {f"{head}groups": 2}),
        Variant("groups_2_not_dense", "the groups instead of the dense head", group,
                {f"{head}groups": 2, "model.aux_head": None}),
        Variant("dense_beside", "dense head on the backbone's features, not on the head's maps", group,
                {"model.aux_neck": dict(type="MobileFormerFPN", arch="52m", out_channels=128,
                                        num_outs=3)}),
        Variant("dense_first", "dense head alone for 45 % of the time, as in make demo", group,
                {"model.dense_first": 0.45}),
        Variant("dense_first_growing", "and pictures of half the size for 60 % of it", group,
                {"model.dense_first": 0.45}, "growing"),
        Variant("look_at_edges", "heads look at the edges of the boxes too", group,
                {f"{head}look": "edges"}),
        Variant("look_asks", "heads at the middle of the boxes ask what is there", group,
                {f"{head}look": "middle"}),
        Variant("deltas_of_logits", "blocks change the logits of boxes", group,
                {f"{head}deltas": "logit"}),
        Variant("not_size_aware", "blocks do not know the size of the box they change", group,
                {f"{head}size_aware": False}),
        Variant("crop", "crops", group, {}, "crop"),
        Variant("growing", "half the size for 60 % of the time", group, {}, "growing"),
        Variant("mosaic", "mosaic and mixup, off at the end", group, {}, "mosaic"),
        Variant("mosaic_to_the_end", "mosaic and mixup to the end", group, {}, "mosaic_to_the_end"),
    ]
    return {variant.name: variant for variant in made}


def ablation_runs(
    names: Sequence[str] | None = None,
    task: str = TASK,
    minutes: float = MINUTES,
    seeds: Sequence[int] = SEEDS,
    base_seeds: Sequence[int] = BASE_SEEDS,
    lr: float | None = None,
    processes: int = 2,
    threads: int = 1,
) -> list[Run]:
    """The runs of the ablation, the recipe's own first.

    Args:
        names: Keys of :func:`variants`; None for all.
        task: Key of the tasks.
        minutes: Budget of a run.
        seeds: Seeds of every variant but the whole recipe.
        base_seeds: Seeds of that.
        lr: Learning rate of all with Muon; None for the config's. Others have :data:`ADAMW_LR` of it.
        processes, threads: As in :class:`~mmdet_mobileformer.analysis.learning.Run`.

    Raises:
        ValueError: If there is no such variant or task.
    """
    known_variants = variants()
    if task not in TASKS:
        raise ValueError(f"there is no task {task!r}: choose one of {', '.join(TASKS)}")
    for name in names or ():
        if name not in known_variants:
            raise ValueError(f"there is no variant {name!r}: {', '.join(known_variants)}")
    rate = base_lr(CONFIG) if lr is None else lr
    return [
        Run("ablation", task, name, CONFIG, rate * variant.lr_factor, variant.augmentation, seed,
            minutes, processes, threads, {**TOGETHER, **variant.options},
            "steps" if variant.ema else "")
        for name, variant in known_variants.items()
        if names is None or name in names
        for seed in (base_seeds if name == "fast" else seeds)
    ]


def missing_runs(runs: Sequence[Run], results: Iterable[Result], here: str) -> list[Run]:
    """Those without a result of their config as it is now.

    Variants are compared with the whole recipe on the same processor, so its first seed is missing unless
    ``here``, this machine's processor, has trained it.
    """
    results = list(results)
    done, done_here = known(results), known(r for r in results if r.cpu == here)
    base = next((run for run in runs if run.model == "fast"), None)
    return [run for run in runs if find(run, done_here if run is base else done) is None]


def ablation_table(results: Sequence[Result], task: str = TASK) -> str:
    """The ablation as Markdown, a table per processor; of several results of one variant and seed the last counts."""
    by_cpu: dict[str, dict[tuple[str, int], Result]] = {}
    for result in results:
        if result.kind == "ablation" and result.task == task:
            by_cpu.setdefault(result.cpu, {})[result.model, result.seed] = result
    if not by_cpu:
        return f"There is no run of the ablation on {task} yet: see the plan."
    return "\n\n".join(
        f"**{TASKS[task].title}: AP on the 200 pictures of choices; {cpu}**\n\n{_table(list(latest.values()))}"
        for cpu, latest in by_cpu.items()
    )


def _table(results: Sequence[Result]) -> str:
    """The variants that one processor has trained."""
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.model, []).append(result)
    base = [r.select_ap for r in by_name.get("fast", [])]
    lines = [
        "| | variant | AP | difference | AP50 | steps | minutes | seeds |",
        "| -- | -- | -- | -- | -- | -- | -- | -- |",
    ]
    heading = ""
    for name, variant in variants().items():
        found = by_name.get(name)
        if not found:
            continue
        aps = [r.select_ap for r in found]
        difference = f"{mean(aps) - mean(base):+.3f}" if base and name != "fast" else "-"
        shown = "" if variant.group == heading else variant.group
        heading = variant.group
        spread = f" ({min(aps):.3f}-{max(aps):.3f})" if len(aps) > 1 else ""
        diverged = ", diverged" if any(r.diverged for r in found) else ""
        lines.append(
            f"| {shown} | {variant.title} | {mean(aps):.3f}{spread}{diverged} | {difference} | "
            f"{mean(r.select_ap50 for r in found):.3f} | "
            f"{round(mean(r.iterations for r in found))} | {found[0].minutes:g} | {len(found)} |"
        )
    if len(base) > 1:
        lines += [
            "",
            f"Seeds alone move the whole recipe by {max(base) - min(base):.3f} (highest minus "
            f"lowest of {len(base)}): smaller differences say nothing.",
        ]
    return "\n".join(lines)
