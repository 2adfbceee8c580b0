#!/usr/bin/env python
"""Put any mmdet detector on Mobile-Former: writes a config that states only the differences.

    python tools/swap_backbone.py mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py --arch 96m -o OUT.py

BASE is the path of a config, or mmdet::FAMILY/NAME.py for one that mmdet ships. The result is built,
trained and run once on small images before OUT appears. What cannot be swapped is refused with the
reason.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("base", metavar="BASE", help="path of a config, or mmdet::FAMILY/NAME.py")
    add("--arch", required=True, help="the Mobile-Former: 508m, 294m, 214m, 151m, 96m, 52m or 26m")
    add("-o", "--out", required=True, type=Path, metavar="OUT", help="config file to write")
    add(
        "--neck",
        choices=["keep", "mobileformer"],
        default="keep",
        help="keep the neck with other channels (default), or put MobileFormerFPN in an FPN's place",
    )
    add("--pretrained", metavar="FILE", help="ImageNet checkpoint of the backbone; default none")
    add(
        "--shape",
        type=int,
        nargs=2,
        default=[800, 1333],
        metavar=("HEIGHT", "WIDTH"),
        help="size at which the cost before and after is counted (default 800 1333)",
    )
    add("--no-check", action="store_true", help="write OUT without building and running it")
    add("--no-count", action="store_true", help="do not count parameters and MAdds")
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.swap.command import swap_file
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        swap_file(
            args.base,
            args.arch,
            args.out,
            neck=args.neck,
            pretrained=args.pretrained,
            shape=None if args.no_count else tuple(args.shape),
            check=not args.no_check,
            overwrite=args.overwrite,
        )


if __name__ == "__main__":
    main()
