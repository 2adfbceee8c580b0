"""Draw loss and COCO AP of a training, resumed or not, as one picture.

    python tools/analysis_tools/plot_curves.py WORK_DIR curves.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Parse and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="work dir, folder of a run, or scalars.json")
    parser.add_argument("out", type=Path, help="the picture; one that exists is never replaced")
    args = parser.parse_args()
    from mmdet_mobileformer.analysis.curves import plot_curves

    try:
        if args.out.exists():
            raise FileExistsError(f"{args.out} exists and is kept: give another name")
        print(plot_curves(args.log, args.out))
    except (OSError, ValueError) as error:
        raise SystemExit(f"plot_curves.py: {error}") from None


if __name__ == "__main__":
    main()
