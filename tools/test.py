#!/usr/bin/env python
"""Test a checkpoint: tools/test.py CONFIG CHECKPOINT [flags]. The flags are mmdet's and a few more."""

from __future__ import annotations

import argparse
import os

from mmengine.config import DictAction


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; sets LOCAL_RANK for launchers that give it as a flag."""
    parser = argparse.ArgumentParser(description="Test (and evaluate) a detector.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load the checkpoint even if it can run code: only for files you made",
    )
    parser.add_argument("--work-dir", help="where the metrics go (default: work_dirs/CONFIG)")
    parser.add_argument("--data-root", help="folder to read every data set and evaluator from")
    parser.add_argument(
        "--classes", metavar="NAMES", help="as for tools/train.py; not needed for a work dir's config"
    )
    parser.add_argument("--out", help="write the predictions to this pickle file")
    parser.add_argument("--show", action="store_true", help="show every prediction in a window")
    parser.add_argument("--show-dir", help="write painted images to WORK_DIR/timestamp/SHOW_DIR")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds per image of --show")
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
        help="who started the processes; see dist_test.sh",
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    try:
        args = parser.parse_args(argv)
    except (AssertionError, ValueError) as error:  # mmengine's reading of KEY=VALUE
        parser.error(f"--cfg-options needs KEY=VALUE with matching brackets ({error})")
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def main() -> None:
    """Check everything, build the Runner and test."""
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.stack import known_break

    if (broken := known_break()) is not None:
        raise SystemExit(f"test.py: {broken}")
    from mmdet.evaluation import DumpDetResults
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.train.build import build_runner, test_config
    from mmdet_mobileformer.train.errors import one_sentence_errors
    from mmdet_mobileformer.train.guards import check_fit
    from mmdet_mobileformer.train.launch import close_launcher

    setup_cache_size_limit_of_dynamo()
    try:
        with one_sentence_errors():
            runner = build_runner(test_config(args))
            check_fit(runner, args.checkpoint)
            if args.out is not None:
                runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
            runner.test()
            del runner  # it holds the process group
    finally:
        close_launcher()


if __name__ == "__main__":
    main()
