#!/usr/bin/env python
"""Write the results in docs/speed/*.json into docs/speed.md.

    python tools/misc/speed_page.py            write the page
    python tools/misc/speed_page.py --check    only fail if it differs

A file VERSION-WHAT.json is what tools/analysis_tools/benchmark.py --json wrote.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    from mmdet_mobileformer.analysis.benchmark.page import PAGE, page

    try:
        text = page(args.root)
    except (OSError, ValueError) as error:
        raise SystemExit(f"speed_page: {error}") from None
    file = args.root / PAGE
    if file.read_text(encoding="utf-8") == text:
        print(f"nothing to do: {PAGE} has the results of docs/speed")
    elif args.check:
        raise SystemExit(f"speed_page: {PAGE} differs from docs/speed: run tools/misc/speed_page.py")
    else:
        file.write_text(text, encoding="utf-8")
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
