"""Train a small E2E-MF on the embedded data set, score it and draw what it sees."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Parse the flags and run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=ROOT / "data" / "shapes")
    parser.add_argument(
        "--out", type=Path, help="new folder for the results (default: work_dirs/demo-TIME)"
    )
    parser.add_argument(
        "--least-ap", type=float, default=0.10, help="fail below this COCO AP (default: 0.10)"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="as in tools/train.py"
    )
    args = parser.parse_args()
    from mmdet_mobileformer.train.demo import run_demo

    out = args.out or ROOT / "work_dirs" / time.strftime("demo-%Y%m%d-%H%M%S")
    try:
        ap = run_demo(ROOT, args.data_root, out, args.cfg_options)
    except (OSError, RuntimeError, ValueError) as error:
        raise SystemExit(f"demo.py: {error}") from None
    if ap < args.least_ap:
        raise SystemExit(f"demo.py: AP {ap:.3f} is below {args.least_ap}")


if __name__ == "__main__":
    main()
