"""What tools/train.py and tools/test.py do about the data: folder, classes, doctor, bad samples."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from ..data.bad_samples_hook import skip_bad_samples
from ..data.classes import set_classes
from ..data.doctor.examine import check_before_training
from ..data.layouts import use_data_root
from .launch import is_first_process
from .other_classes import accept_other_classes


def choose_data(
    cfg: Any, args: Namespace, splits: Sequence[str], say: Callable[[str], None]
) -> None:
    """`--data-root` and `--classes`. Changes `cfg` in place.

    Args:
        cfg: The config, with `work_dir`.
        args: data_root and classes, None where they are not given.
        splits: The splits about to be used.
        say: Takes the sentences for the user.

    Raises:
        FileNotFoundError: The folder or a file of it is missing.
        ValueError: The folder, its classes and the config do not fit each other.
    """
    if args.data_root is not None:
        use_data_root(cfg, args.data_root, splits, cfg["work_dir"], say)
    if getattr(args, "classes", None) is not None:
        names = set_classes(cfg, args.classes, splits)
        say(f"Classes ({len(names)}): {', '.join(names)}")


def guard_data(cfg: Any, args: Namespace, say: Callable[[str], None]) -> None:
    """`--skip-doctor` and `--strict-data`; bad samples and other classes. Changes `cfg` in place.

    Args:
        cfg: The config of a training, with its final data sets.
        args: skip_doctor and strict_data.
        say: Takes the sentences for the user.

    Raises:
        ValueError: The data cannot be trained on.
    """
    strict = bool(getattr(args, "strict_data", False))
    left_out = 0
    if not getattr(args, "skip_doctor", False) and is_first_process():
        left_out = check_before_training(cfg, strict, say).boxes_left_out
    skip_bad_samples(cfg, strict, left_out)
    accept_other_classes(cfg)
