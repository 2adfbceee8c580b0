#!/usr/bin/env python
"""Train a detector: tools/train.py CONFIG [flags]. The flags are mmdet's and a few more."""

from __future__ import annotations

import argparse
import os

from mmengine.config import DictAction


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; sets LOCAL_RANK for launchers that give it as a flag."""
    parser = argparse.ArgumentParser(description="Train a detector.")
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--work-dir", help="where logs and checkpoints go (default: work_dirs/CONFIG)"
    )
    parser.add_argument("--data-root", help="folder to read every data set and evaluator from")
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="'auto' takes the classes from the annotation file; or some of them, comma-separated",
    )
    parser.add_argument(
        "--skip-doctor", action="store_true", help="do not examine the data before training"
    )
    parser.add_argument(
        "--strict-data",
        action="store_true",
        help="stop at bad pictures and boxes instead of leaving them out",
    )
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision; on a CPU that is bfloat16"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the total batch size over auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from CHECKPOINT, or without a value from the latest one in the work dir",
    )
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load --resume's or load_from's file even if it can run code: only files you made",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help='override settings of the config; lists as key="[a,b]", no spaces',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="who started the processes; see dist_train.sh and slurm_train.sh",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    try:
        args = parser.parse_args(argv)
    except (AssertionError, ValueError) as error:  # mmengine's reading of KEY=VALUE
        parser.error(f"--cfg-options needs KEY=VALUE with matching brackets ({error})")
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def main() -> None:
    """Check everything, build the Runner and train."""
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.stack import known_break

    if (broken := known_break()) is not None:
        raise SystemExit(f"train.py: {broken}")
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.kernel_caches import TRAINING_ENTRIES, bound_kernel_caches
    from mmdet_mobileformer.kernels import use_kernels_on_cpu
    from mmdet_mobileformer.train.build import build_runner, train_config
    from mmdet_mobileformer.train.errors import one_sentence_errors
    from mmdet_mobileformer.train.guards import check_start
    from mmdet_mobileformer.train.hooks import BoundHistoryHook, ReleaseMemoryHook
    from mmdet_mobileformer.train.launch import close_launcher
    from mmdet_mobileformer.train.process import prepare_process

    setup_cache_size_limit_of_dynamo()
    bound_kernel_caches(TRAINING_ENTRIES)
    kept = prepare_process()
    use_kernels_on_cpu()
    try:
        with one_sentence_errors():
            runner = build_runner(train_config(args))
            runner.register_hook(BoundHistoryHook())
            if kept:
                runner.register_hook(ReleaseMemoryHook())
            check_start(runner)
            runner.train()
            del runner  # it holds the process group
    finally:
        close_launcher()


if __name__ == "__main__":
    main()
