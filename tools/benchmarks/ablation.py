"""What each part of the fast recipe brings, alone and left out, and the paper's own switches.

    python tools/benchmarks/ablation.py plan
    python tools/benchmarks/ablation.py run --hours 2
    python tools/benchmarks/ablation.py table

The results stand in the file of tools/benchmarks/learning.py.
"""

from __future__ import annotations

import argparse

from learning import ROOT, add_common, results_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["plan", "run", "table"])
    parser.add_argument("--task", default="shapes", help="shapes, person or coco80")
    parser.add_argument("--variant", nargs="+", help="names as the plan prints them")
    parser.add_argument("--lr", type=float, help="learning rate (default: the config's); of AdamW half")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of a variant")
    parser.add_argument(
        "--base-seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the whole recipe"
    )
    add_common(parser)
    return parser.parse_args()


def main() -> None:
    """Parse and do one of the three things."""
    args = parse_args()
    from mmdet_mobileformer.analysis import learning_ablation, learning_runs

    file = results_file(args)
    minutes = learning_ablation.MINUTES if args.minutes is None else args.minutes
    try:
        runs = learning_ablation.ablation_runs(
            args.variant, args.task, minutes, args.seeds, args.base_seeds, args.lr,
            args.processes, args.threads,
        )

        def missing() -> list[learning_runs.Run]:
            results = learning_runs.read_results(file)
            return learning_ablation.missing_runs(runs, results, learning_runs.this_cpu())

        if args.do == "plan":
            left = missing()
            print(*(run.label for run in left), sep="\n")
            print(f"{len(left)} of {len(runs)} runs are missing, {len(left) * minutes / 60:.1f} hours")
        elif args.do == "run":
            folders = learning_runs.DataFolders(args.shapes, args.coco_mini, args.work_dir)
            learning_runs.work_off(
                lambda: next(iter(missing()), None), folders, file, ROOT, args.hours, args.keep
            )
        else:
            print(learning_ablation.ablation_table(learning_runs.read_results(file), args.task))
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"ablation.py: {error}") from None


if __name__ == "__main__":
    main()
