"""Prints parameters and multiply-adds (MAdds) of the model of a config, per part.

    python tools/analysis_tools/get_flops.py configs/e2emf_508m_coco.py --shape 800 1333

The input has exactly this size: it is not padded to a multiple of 32. Counted are the multiply-adds
of matrix products and convolutions, see mmdet_mobileformer/analysis/flops.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmdet_mobileformer.analysis.flops import check_shape, count, model_from_config  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", help="config file of a detector, or of any model that takes one image batch")
    add("--shape", type=int, nargs="+", default=[800, 1333], metavar="N", help="height width")
    add("--batch", type=int, default=1, help="images in the batch (default 1)")
    add("--depth", type=int, default=2, help="levels of the module tree to print (default 2)")
    add("--device", choices=["auto", "meta", "cpu"], default="auto", help="where to count")
    add("--cfg-options", nargs="+", action=DictAction, help="override settings, key=value")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    shape = args.shape * 2 if len(args.shape) == 1 else args.shape
    try:
        check_shape(shape)
        model = model_from_config(args.config, args.cfg_options)
        result = count(model, tuple(shape), args.batch, args.device)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"get_flops: {error}") from None
    print(result.table(args.depth))
    size = f"{args.batch} x 3 x {shape[0]} x {shape[1]}"
    print(f"\ninput   {size}, exactly: not padded to a multiple of 32")
    print(f"params  {result.total_params / 1e6:.3f} M")
    print(f"MAdds   {result.total_madds / 1e9:.3f} G (products, convolutions; on {result.device})")
    if result.uncounted:
        print("NOT counted, since no formula is known: " + ", ".join(result.uncounted))


if __name__ == "__main__":
    main()
