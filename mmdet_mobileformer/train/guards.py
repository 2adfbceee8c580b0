"""What every run of tools/train.py gets, whatever its config says: nothing lost, nothing silent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.runner import find_latest_checkpoint

from .assign import use_finite_assigner
from .resume import type_name, use_exact_resume
from .safe_loading import check_reference, load_reference

#: What a checkpoint of a training has, beside the weights.
_STATE = ("meta", "message_hub", "optimizer")


def add_guards(cfg: Any) -> list[str]:
    """Exact resume, checkpoints that cannot be lost, a stop at the first NaN. Changes `cfg`.

    Args:
        cfg: The config of a training.

    Returns:
        Sentences that the user should read; usually none.
    """
    reasons = use_exact_resume(cfg)
    hooks = dict(cfg.get("default_hooks") or {})
    saver = hooks.setdefault("checkpoint", dict(type="CheckpointHook", interval=1))
    custom = [h for h in cfg.get("custom_hooks") or [] if type_name(h) != "StopAtNonFiniteHook"]
    for hook in (saver, *custom):
        if isinstance(hook, dict) and type_name(hook) == "CheckpointHook":
            hook["type"] = "AtomicCheckpointHook"
    cfg["default_hooks"] = hooks
    cfg["custom_hooks"] = [*custom, dict(type="StopAtNonFiniteHook")]
    use_finite_assigner(cfg.get("model"))
    return [f"A resumed run will not be exactly the same: {'; '.join(reasons)}."] if reasons else []


def check_init_files(cfg: Any) -> None:
    """Stop at weights that `init_cfg` names and that would not be loaded.

    Raises:
        ValueError: for a URL without a hash.
    """
    for reference in _pretrained(cfg.get("model")):
        check_reference(reference, "init_cfg's checkpoint")


def _pretrained(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if value.get("type") == "Pretrained" and isinstance(value.get("checkpoint"), str):
            yield value["checkpoint"]
        for item in value.values():
            yield from _pretrained(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _pretrained(item)


def set_resume(cfg: Any, resume: str | None) -> None:
    """Set up `--resume`, or check what `load_from` names. Changes `cfg` in place.

    A resumed run takes the seed of the checkpoint, so that it sees the data in the same order.

    Args:
        cfg: The config, with `work_dir`.
        resume: None, 'auto' for the latest checkpoint of the work dir, or a checkpoint.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be loaded, or resumed.
    """
    if resume is None and not cfg.get("resume"):
        if cfg.get("load_from"):
            check_checkpoint(cfg["load_from"])
        return
    if resume not in (None, "auto"):
        cfg["load_from"] = resume
    elif resume == "auto" or not cfg.get("load_from"):
        latest = latest_checkpoint(cfg["work_dir"])
        if latest is None and cfg.get("load_from"):
            # Nothing was saved yet: the first start, from the weights that the config names.
            cfg["resume"] = False
            check_checkpoint(cfg["load_from"])
            return
        cfg["load_from"] = latest
    cfg["resume"] = True
    if cfg["load_from"] is None:
        return
    checkpoint = check_checkpoint(cfg["load_from"])
    _check_training_state(checkpoint, cfg["load_from"])
    seed = checkpoint["meta"].get("seed")
    if isinstance(seed, int):
        cfg["randomness"] = dict(cfg.get("randomness") or {}, seed=seed)


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that the work dir's `last_checkpoint` names; None if it has none.

    A work dir that was moved is understood: the file is then looked for beside the note.

    Raises:
        FileNotFoundError: if the note names a file that is not there.
        ValueError: if the note is empty.
    """
    if not (Path(work_dir) / "last_checkpoint").is_file():
        return None
    noted = find_latest_checkpoint(work_dir)
    if not noted:
        raise ValueError(
            f"{work_dir}/last_checkpoint is empty: give the file to continue from, --resume FILE"
        )
    beside = Path(work_dir) / os.path.basename(noted)
    if not os.path.isfile(noted) and beside.is_file():
        return str(beside)
    return str(noted)


def check_checkpoint(reference: str) -> dict[str, Any]:
    """Read a checkpoint to see that it is whole and safe.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is damaged or unsafe, holds no weights, or is a URL without a hash.
    """
    check_reference(reference)
    checkpoint = load_reference(reference)
    if not state_dict_of(checkpoint):
        raise ValueError(
            f"checkpoint {reference} holds no state dict: give a file with the weights"
        )
    found: dict[str, Any] = checkpoint
    return found


def state_dict_of(checkpoint: Any) -> dict[str, Any]:
    """The weights in a checkpoint, without ``module.`` in front; empty if there are none."""
    if not isinstance(checkpoint, dict):
        return {}
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict):
        return {}
    return {
        str(key).removeprefix("module."): value
        for key, value in state.items()
        if hasattr(value, "shape")
    }


def _check_training_state(checkpoint: dict[str, Any], reference: str) -> None:
    parts = {key: checkpoint.get(key) for key in _STATE}
    absent = [key for key, part in parts.items() if not isinstance(part, dict)]
    meta, hub = parts["meta"], parts["message_hub"]
    if isinstance(meta, dict):
        counts = {key: meta.get(key) for key in ("epoch", "iter")}
        # Far more than any training: torch's generators take no larger seeds either.
        absent += [
            f"meta.{key}"
            for key, count in counts.items()
            if not isinstance(count, int) or not 0 <= count < 2**31
        ]
    # An optimizer takes a parameter's state as it is, and fails at its next step.
    states = parts["optimizer"].get("state") if isinstance(parts["optimizer"], dict) else None
    if isinstance(states, dict):
        absent += [f"optimizer.state.{k}" for k, v in states.items() if not isinstance(v, dict)]
    if isinstance(hub, dict):
        keys = ("log_scalars", "runtime_info", "resumed_keys")
        absent += [f"message_hub.{key}" for key in keys if not isinstance(hub.get(key), dict)]
        # mmengine stops at the first log of a key whose flag is none, in the middle of the run.
        flags = hub.get("resumed_keys")
        for key, flag in flags.items() if isinstance(flags, dict) else ():
            if not isinstance(flag, bool):
                absent.append(f"message_hub.resumed_keys.{key}")
    if absent:
        raise ValueError(
            f"checkpoint {reference} holds weights but no state of a training ({', '.join(absent)} "
            "missing or damaged), so it cannot be resumed: start from it by --cfg-options load_from=FILE"
        )


def check_fit(runner: Any, reference: str, least: str = "all") -> None:
    """Stop when a checkpoint lacks weights of the model: mmengine would leave random ones.

    Args:
        runner: The Runner about to load the checkpoint.
        reference: The checkpoint.
        least: 'all' of the weights must be there with their shape, or 'one'.

    Raises:
        ValueError: naming the first missing or misshapen weights.
    """
    state = state_dict_of(load_reference(reference))
    bad, total = [], 0
    for name, value in runner.model.state_dict().items():
        key = name
        while key.startswith("module.") and key not in state:
            key = key.removeprefix("module.")
        if key.endswith("num_batches_tracked"):
            continue  # a counter that only training with momentum=None reads
        total += 1
        if key not in state or state[key].shape != value.shape:
            bad.append(key)
    if not bad or (least == "one" and len(bad) < total):
        return
    raise ValueError(
        f"checkpoint {reference} does not fit the config's model: {len(bad)} weights are missing "
        f"or of another shape ({', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''})"
    )


def check_start(runner: Any) -> None:
    """Stop before a training whose checkpoint does not fit its model.

    A resumed run needs every weight; one that starts from `load_from` at least one, since heads for
    other classes are meant to differ.

    Raises:
        ValueError: naming the first missing or misshapen weights.
    """
    if runner._load_from:
        check_fit(runner, runner._load_from, "all" if runner._resume else "one")
