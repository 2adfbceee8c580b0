"""Convert an official ImageNet checkpoint of Mobile-Former to a file of this package.

    python tools/model_converters/mobileformer_to_mmdet.py OFFICIAL.pth.tar OUT.safetensors

The arch is recognised from the shapes. Every key and shape is checked, and on golden weights the
converted model has to give the official numbers, or nothing is written. A detector starts from the
file by `--cfg-options pretrained=OUT.safetensors` of tools/train.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="official checkpoint, as downloaded or as a training script wrapped it")
    add("target", help="file to write, .safetensors or .pth; one that exists is never replaced")
    add("--arch", help="insist on this arch (508m, 294m, ...) in place of recognising it")
    add("--ema", action="store_true", help="take the moving average stored beside the weights")
    add("--backbone-only", action="store_true", help="leave the ImageNet classifier out")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.convert import convert_checkpoint

    try:
        convert_checkpoint(args.source, args.target, args.arch, args.ema, args.backbone_only)
    except (ValueError, OSError) as error:
        raise SystemExit(f"mobileformer_to_mmdet: {error}") from None


if __name__ == "__main__":
    main()
