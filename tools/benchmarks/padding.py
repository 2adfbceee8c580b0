"""Measure how far an image's boxes depend on its neighbours in the batch and on padding."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

from mmdet_mobileformer.analysis.padding import padding_leaks, shift_statistics
from mmdet_mobileformer.train.build import read_config
from mmdet_mobileformer.train.errors import one_sentence_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config of an E2E-MF")
    parser.add_argument("checkpoint", nargs="?", help="its weights; by default random ones")
    args = parser.parse_args()
    register_all_modules(init_default_scope=True)
    with one_sentence_errors():
        cfg = read_config(args.config)
        if cfg.model.type != "E2EMF":
            raise SystemExit(f"padding.py: {args.config} is no E2EMF but {cfg.model.type}")
        if args.checkpoint and not Path(args.checkpoint).is_file():
            raise SystemExit(f"padding.py: {args.checkpoint} does not exist")
        model = MODELS.build(cfg.model)
        if args.checkpoint:
            from mmengine.runner import load_checkpoint

            load_checkpoint(model, args.checkpoint, map_location="cpu", strict=True)
        else:
            shift_statistics(model)
        print("| valid size | padded to | class probability | box, share of the side |")
        print("| -- | -- | -- | -- |")
        for leak in padding_leaks(model.eval().double()):
            size, canvas = "x".join(map(str, leak.size)), "x".join(map(str, leak.canvas))
            print(f"| {size} | {canvas} | {leak.scores:.1e} | {leak.boxes:.1e} |", flush=True)


if __name__ == "__main__":
    main()
