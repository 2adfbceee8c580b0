#!/usr/bin/env python
"""Make an exported model INT8: quantize.py MODEL.onnx IMAGES_FOLDER --out NEW.onnx [flags].

The ranges of activations are measured on the folder's pictures, which need no labels. With --ann AP
before and after is printed; size and time are printed always.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="float .onnx file of export.py")
    add("images", help="folder of pictures like those the model will see")
    add("-o", "--out", type=Path, required=True, help="the new .onnx file")
    add("--ann", metavar="FILE", help="COCO annotation file, to print AP before and after")
    add("--data-root", metavar="FOLDER", help="folder of the annotated pictures (default: IMAGES)")
    add("--count", type=int, default=64, help="pictures that measure the ranges (default: 64)")
    add(
        "--method",
        choices=["minmax", "entropy", "percentile"],
        default="minmax",
        help="how a range is chosen from what was measured (default: minmax)",
    )
    add(
        "--float",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="regular expressions of node names to keep in float as well",
    )
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error("--count must be at least 1")
    return args


def main() -> None:
    """Quantise and measure."""
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.deploy.quantize import quantize
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        try:
            quantize(
                args.model,
                args.images,
                args.out,
                annotations=args.ann,
                data_root=args.data_root,
                count=args.count,
                method=args.method,
                keep_float=args.float,
            )
        except ImportError as error:
            raise SystemExit(f"quantize.py: {error}") from None


if __name__ == "__main__":
    main()
