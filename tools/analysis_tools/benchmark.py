#!/usr/bin/env python
"""Time models against each other and against the machine, in one interleaved run.

    python tools/analysis_tools/benchmark.py configs/e2emf_508m_coco.py \\
        mmdet::detr/detr_r50_8xb2-150e_coco.py --baseline mmdet::detr/detr_r50_8xb2-150e_coco.py \\
        --sizes 800x1344 --engines eager compile --json speed.json

A config is a path or mmdet::FAMILY/NAME.py; with #backbone behind it the backbone alone is timed.
Weights are random and nothing is downloaded. Every model and engine has a process of its own.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from mmengine.config import DictAction

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def size(text: str) -> tuple[int, int]:
    """Height and width of ``'800x1344'``."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"size {text!r} is not HEIGHTxWIDTH, such as 800x1344")
    return int(height), int(width)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="what is timed")
    add("--baseline", metavar="CONFIG", help="the one of the configs that ratios refer to")
    add("--sizes", type=size, nargs="+", metavar="HxW", help="in pixels (default 800x1344)")
    add("--batch", type=int, help="images in a batch (default 1, in training 2)")
    add("--threads", type=int, default=2, help="threads (default 2)")
    add(
        "--engines",
        nargs="+",
        default=["eager"],
        metavar="ENGINE",
        help="of eager, compile, onnxruntime, openvino (default eager); absent ones are left out",
    )
    add("--runs", type=int, default=20, help="timed runs of each (default 20)")
    add("--warmup", type=int, default=3, help="runs before them (default 3)")
    add("--seconds", type=float, help="end a size after a round when this time is over")
    add(
        "--prepare",
        choices=["deploy", "fold", "none"],
        default="deploy",
        help="deploy: deploy() for models of this package, Conv-BN folding for others (default); "
        "fold: Conv-BN folding for all; none: as built",
    )
    add("--with-preprocessing", action="store_true", help="time the normalisation too")
    add("--train", action="store_true", help="time a training step (default size 480x480)")
    add("--breakdown", action="store_true", help="also print the time of each part, in eager mode")
    add("--json", type=Path, metavar="OUT", help="write the results to this new file")
    add("--cfg-options", nargs="+", action=DictAction, help="override settings, key=value")
    args = parser.parse_args(argv)
    for name in ("batch", "threads", "runs"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} is {value}, but must be at least 1")
    args.sizes = args.sizes or [(480, 480) if args.train else (800, 1344)]
    args.batch = args.batch or (2 if args.train else 1)
    return args


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.analysis.benchmark.command import benchmark
    from mmdet_mobileformer.train.errors import one_sentence_errors

    # What to run again for the same results, wherever they go.
    given = [flag for flag in sys.argv[1:] if flag != "--json"]
    if args.json is not None and str(args.json) in given:
        given.remove(str(args.json))
    command = shlex.join(["python", "tools/analysis_tools/benchmark.py", *given])
    with one_sentence_errors():
        benchmark(args, command)


if __name__ == "__main__":
    main()
