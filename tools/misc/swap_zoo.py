#!/usr/bin/env python
"""Swap the backbone of every config that mmdet ships, check the results, write a table.

    python tools/misc/swap_zoo.py --arch 26m --out docs/swap_table.md

Takes hours on one core. Every result is written to --results at once, and what is there already is
not done again: stop and start it as you like. --families restricts it, --table only writes.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

RESULTS = Path("work_dirs/swap_zoo.json")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--arch", default="26m", help="the Mobile-Former (default 26m)")
    add("--results", type=Path, default=RESULTS, help=f"JSON with the results so far ({RESULTS})")
    add("--families", nargs="+", default=[], metavar="NAME", help="folders of .mim/configs (all)")
    add("--again", action="store_true", help="do again what did not work, after a change")
    add("--table", action="store_true", help="only write the table of the results so far")
    add("--out", type=Path, help="Markdown file for the table; without it the totals are printed")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmdet_mobileformer.swap.zoo import load, run_zoo
    from mmdet_mobileformer.swap.zoo_table import table, totals
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        if not args.table:
            say = functools.partial(print, flush=True)
            run_zoo(args.arch, args.results, args.families, args.again, say)
        results = load(args.results, args.arch)
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(table(results))
        print(totals(results))


if __name__ == "__main__":
    main()
