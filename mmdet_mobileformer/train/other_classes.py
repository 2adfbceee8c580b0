"""Starting from a checkpoint of another number of classes: all but the classifier is kept (ours)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor

#: What a head may predict beside class scores: nothing, background, or box and objectness.
_BESIDE = (0, 1, 5)
#: Parts of names that layers which give class scores have in mmdet's heads and ours.
_CLASS_WORDS = ("cls", "class", "label", "logits", "score", "heat", "pred")


def drop_classifier(
    state_dict: dict[str, Tensor],
    expected: Mapping[str, Tensor],
    old: int | None = None,
    new: int | None = None,
) -> list[str]:
    """Remove weights whose size follows from another number of classes. Changes `state_dict`.

    They differ from the model's in the first dimension alone, which is a multiple (anchors, box
    sides) of the number of classes, or of it plus what a head predicts beside them; or, where both
    numbers are known, in a later one by their difference. All must agree on the old number.

    Args:
        state_dict: The checkpoint's weights.
        expected: The model's weights, for their names and shapes.
        old: The checkpoint's number of classes, where it is known.
        new: The model's number of classes, where it is known.

    Returns:
        The names removed.

    Raises:
        ValueError: Weights differ in another way, so that the checkpoint is of another model.
    """
    differing = {
        name: (tuple(state_dict[name].shape), tuple(value.shape))
        for name, value in expected.items()
        if name in state_dict and state_dict[name].shape != value.shape
    }
    possible: set[int] | None = None
    wrong = []
    for name, (theirs, ours) in differing.items():
        counts: set[int] = set()
        if theirs and ours and theirs[1:] == ours[1:]:
            counts = _old_counts(theirs[0], ours[0], old, new)
        elif old and new and _added(theirs, ours) == old - new:
            counts = {old}  # class scores are an input of this layer
        possible = counts if possible is None else possible & counts
        if not possible:
            wrong.append(name)
            break
    # Without the numbers any two sizes fit somehow: at least the name has to speak of classes.
    if old is None and not any(word in name for name in differing for word in _CLASS_WORDS):
        wrong += list(differing)
    if wrong:
        theirs, ours = differing[wrong[0]]
        raise ValueError(
            f"the checkpoint is of another model, not only of other classes: {wrong[0]} has shape "
            f"{list(theirs)} there and {list(ours)} here"
        )
    for name in differing:
        del state_dict[name]
    return list(differing)


def _old_counts(theirs: int, ours: int, old: int | None, new: int | None) -> set[int]:
    """Numbers of classes that a first dimension of `theirs` can stand for where ours is `ours`."""
    counts = set()
    for times in range(1, ours + 1):
        if ours % times or theirs % times:
            continue
        for beside in _BESIDE:
            before, now = theirs // times - beside, ours // times - beside
            if before > 0 and now > 0 and old in (None, before) and new in (None, now):
                counts.add(before)
    return counts


def _added(theirs: tuple[int, ...], ours: tuple[int, ...]) -> int | None:
    """The difference of two shapes that differ in one later dimension alone; else None."""
    if len(theirs) != len(ours):
        return None
    differences = [(n, a - b) for n, (a, b) in enumerate(zip(theirs, ours)) if a != b]
    return differences[0][1] if len(differences) == 1 and differences[0][0] > 0 else None


def accept_other_classes(cfg: Any) -> None:
    """Add :class:`OtherClassesHook` to a config that starts from `load_from`. Changes `cfg`."""
    if cfg.get("load_from") and not cfg.get("resume"):
        hooks = [h for h in cfg.get("custom_hooks") or [] if h.get("type") != "OtherClassesHook"]
        cfg["custom_hooks"] = [*hooks, dict(type="OtherClassesHook")]


@HOOKS.register_module()
class OtherClassesHook(Hook):
    """Lets `load_from` take a checkpoint of another number of classes, and says what is new.

    mmengine itself loads whatever fits and mentions the rest in its log. This hook stops where
    nothing fits or where the checkpoint is of another model. A run that is resumed is left alone.
    """

    #: Before EMAHook, which loads the weights too.
    priority = "HIGH"

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Called by mmengine between reading a checkpoint and using it.

        Raises:
            ValueError: The checkpoint does not fit the model.
        """
        if runner._resume or getattr(runner, "_train_dataloader", None) is None:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        nested = isinstance(checkpoint.get("state_dict"), dict)
        given = checkpoint["state_dict"] if nested else checkpoint
        state = {re.sub(r"^module\.", "", name): value for name, value in given.items()}
        state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        expected = model.state_dict()
        file = runner._load_from
        if not any(name in expected for name in state):
            raise ValueError(
                f"checkpoint {file} has no weight of the config's model (it starts with "
                f"{', '.join(list(state)[:2]) or 'nothing'}): give one of a detector like it"
            )
        before = _classes(checkpoint)
        now = _names(runner)
        try:
            counts = (len(names) if names else None for names in (before, now))
            dropped = drop_classifier(state, expected, *counts)
        except ValueError as error:
            raise ValueError(f"checkpoint {file}: {error}") from None
        for name in [name for name in given if re.sub(r"^module\.", "", name) in dropped]:
            del given[name]
        missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
        missing = [name for name in missing if name not in dropped]
        kept = sum(name in expected for name in state)
        if dropped:
            count = f" of {len(before)} classes" if before else ""
            text = (
                f"{file} was trained on other classes: {kept} of its weights are kept, the "
                f"classifier{count} starts anew ({', '.join(dropped[:4])}"
                f"{' ...' if len(dropped) > 4 else ''})"
            )
            runner.logger.warning(text)
        elif before and now and tuple(before) != tuple(now):
            runner.logger.warning(
                f"{file} was trained on as many classes with other names or in another order "
                f"({_some(before)} instead of {_some(now)}): its classifier is kept and must unlearn"
            )
        if missing:
            runner.logger.warning(
                f"{len(missing)} weights of the model are not in {file} and start anew "
                f"({', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''})"
            )


def _classes(checkpoint: Mapping[str, Any]) -> Sequence[str] | None:
    """The class names that mmengine wrote into a checkpoint."""
    meta = checkpoint.get("meta")
    dataset_meta = meta.get("dataset_meta") if isinstance(meta, dict) else None
    classes = dataset_meta.get("classes") if isinstance(dataset_meta, dict) else None
    return classes if isinstance(classes, (list, tuple)) and classes else None


def _names(runner: Any) -> Sequence[str] | None:
    loader = runner.train_dataloader
    metainfo = getattr(getattr(loader, "dataset", None), "metainfo", None) or {}
    return metainfo.get("classes")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
