"""Make the embedded data set "shapes" in COCO format and print what is in it.

    python tools/dataset_converters/make_shapes.py [OUT=data/shapes]

The same 2,000 training and 200 validation pictures come out on every machine. A set that is already
there is kept; a folder with anything else in it is never touched.
"""

from __future__ import annotations

import argparse
import time

from mmdet_mobileformer.data.shapes import make_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded data set of shapes.")
    parser.add_argument("out", nargs="?", default="data/shapes", help="folder (%(default)s)")
    out = parser.parse_args().out
    start = time.perf_counter()
    try:
        result = make_shapes(out)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"make_shapes: {error}") from error
    for split, found in result["splits"].items():
        print(
            f"{split}: {found['images']} images ({found['empty']} empty), {found['objects']} "
            f"objects (at most {found['most']} in one), {found['small']:.1%} of the boxes under "
            f"32x32 px, {found['occluded']:.1%} partly hidden or cut"
        )
        print("  " + ", ".join(f"{name} {count}" for name, count in found["classes"].items()))
    verb = "made" if result["made"] else "already there"
    print(f"{out}: {verb}, SHA-256 {result['sha256']}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
