#!/usr/bin/env python
"""Write a trained E2E-MF as one ONNX file, and OpenVINO's IR: export.py CONFIG CHECKPOINT [flags].

The file takes pictures of any size and number unless --size is given, and carries its classes and
the rule of resizing. It is compared with PyTorch on several sizes; a difference is an error and
leaves no file. In a batch every picture fills the input: there is no padding.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", help="config file of a detector with E2EMFHead")
    add("checkpoint", help="checkpoint file")
    add("--out", type=Path, help="the new file (default: CHECKPOINT with .onnx at its end)")
    add("--openvino", action="store_true", help="also write OpenVINO's .xml and .bin beside it")
    add(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="for one size and one picture at a time; pictures are then stretched to it",
    )
    add(
        "--no-normalize",
        action="store_true",
        help="leave mean and standard deviation to the caller; the metadata says so",
    )
    add("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="override settings")
    add(
        "--trust-checkpoint",
        action="store_true",
        help="load the checkpoint even if it can run code: only for files you made",
    )
    try:
        return parser.parse_args(argv)
    except (AssertionError, ValueError) as error:  # mmengine's reading of KEY=VALUE
        parser.error(f"--cfg-options needs KEY=VALUE with matching brackets ({error})")


def main() -> None:
    """Export and compare."""
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.deploy.export import export
    from mmdet_mobileformer.train.errors import one_sentence_errors
    from mmdet_mobileformer.train.safe_loading import trust_checkpoint

    with one_sentence_errors():
        if args.trust_checkpoint:
            trust_checkpoint(args.checkpoint)
        try:
            export(
                args.config,
                args.checkpoint,
                args.out or Path(args.checkpoint).with_suffix(".onnx"),
                openvino=args.openvino,
                size=None if args.size is None else (args.size[0], args.size[1]),
                normalize=not args.no_normalize,
                options=args.cfg_options,
            )
        except ImportError as error:
            raise SystemExit(f"export.py: {error}") from None


if __name__ == "__main__":
    main()
