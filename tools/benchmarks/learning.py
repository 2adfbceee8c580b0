"""How much detectors learn from scratch in minutes of two cores: ours and MMDetection's own.

    python tools/benchmarks/learning.py plan
    python tools/benchmarks/learning.py run --hours 2
    python tools/benchmarks/learning.py table
    python tools/benchmarks/learning.py plot --out docs/learning

What is compared, and how it is kept fair, stands in mmdet_mobileformer/analysis/learning.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "docs" / "learning" / "results.jsonl"
WORK_DIR = ROOT / "work_dirs" / "learning"


def add_common(parser: argparse.ArgumentParser) -> None:
    """Flags that the ablation has too."""
    parser.add_argument(
        "--results", type=Path,
        help="file of finished runs (default: docs/learning/results.jsonl; with --minutes a file in "
        "work_dirs)",
    )
    parser.add_argument("--hours", type=float, default=1.0, help="run: time of this session")
    parser.add_argument("--minutes", type=float, help="a try: minutes of every run")
    parser.add_argument("--processes", type=int, default=2, help="processes of a run (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a process (default: 1)")
    parser.add_argument("--keep", action="store_true", help="run: keep checkpoints")
    parser.add_argument("--shapes", type=Path, default=ROOT / "data" / "shapes")
    parser.add_argument(
        "--coco-mini", type=Path, default=ROOT.parent / "shared" / "data" / "coco_mini",
        help="folder of coco_mini, in COCO's layout",
    )
    parser.add_argument("--work-dir", type=Path, default=WORK_DIR, help="logs and checkpoints")


def results_file(args: argparse.Namespace) -> Path:
    """The results file: runs of other lengths than the tasks' do not get into the committed one."""
    if args.results is not None:
        return Path(args.results)
    return RESULTS if args.minutes is None else Path(args.work_dir) / "tries.jsonl"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["plan", "run", "table", "plot"])
    parser.add_argument("--task", nargs="+", metavar="TASK", help="shapes, person, coco80")
    parser.add_argument("--model", nargs="+", metavar="MODEL", help="names as the plan prints them")
    parser.add_argument("--lrs", nargs="+", type=float, help="multiples of a config's learning rate")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of reported rows")
    parser.add_argument(
        "--here", action="store_true",
        help="plan, run: rows of other processors count as missing, since their minutes are others; trials "
        "choose that are all of one processor, whichever it is",
    )
    parser.add_argument("--out", type=Path, help="plot: folder (default: beside the results)")
    add_common(parser)
    return parser.parse_args()


def main() -> None:
    """Parse and do one of the four things."""
    args = parse_args()
    from mmdet_mobileformer.analysis import learning_report, learning_runs, learning_search

    file = results_file(args)
    cpu = learning_runs.this_cpu() if args.here else None
    settings = learning_runs.Settings(args.minutes, args.processes, args.threads, args.seeds, cpu)
    try:
        pairs = learning_search.chosen(args.task, args.model, args.lrs)

        def searches() -> list[learning_search.Search]:
            results = learning_runs.read_results(file)
            return [learning_search.Search(*pair, results, settings) for pair in pairs]

        if args.do == "plan":
            print(learning_search.describe(searches()))
        elif args.do == "run":
            folders = learning_runs.DataFolders(args.shapes, args.coco_mini, args.work_dir)
            learning_runs.work_off(
                lambda: next((run for s in searches() for run in s.missing()), None),
                folders, file, ROOT, args.hours, args.keep,
            )
        elif args.do == "table":
            tasks = dict.fromkeys(task for task, _ in pairs)
            print(learning_report.table(learning_runs.read_results(file), tuple(tasks)))
        else:
            results = learning_runs.read_results(file)
            for task in dict.fromkeys(task for task, _ in pairs):
                if learning_report.rows(results, task):
                    out = (args.out or file.parent) / f"{task}.png"
                    print(learning_report.plot(results, task, out))
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"learning.py: {error}") from None


if __name__ == "__main__":
    main()
