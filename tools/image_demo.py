#!/usr/bin/env python
"""Detect in pictures, folders and videos: tools/image_demo.py CONFIG CHECKPOINT INPUT ... --out FOLDER."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import DictAction


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Detect in pictures, folders and videos.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, videos")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs"), help="new folder for the results (%(default)s)"
    )
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="draw boxes from this score on (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (%(default)s)")
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load the checkpoint even if it can run code: only for files you made",
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="as in tools/test.py"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.score_thr <= 1:
        parser.error(f"--score-thr {args.score_thr} is not between 0 and 1")
    return args


def main() -> None:
    """Check everything, then detect and write."""
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.stack import known_break

    if (broken := known_break()) is not None:
        raise SystemExit(f"image_demo.py: {broken}")
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.analysis.inference import (
        collect,
        detect_pictures,
        detect_video,
        make_inferencer,
    )
    from mmdet_mobileformer.analysis.outputs import check_new
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        check_new(args.out, "--out")
        pictures, videos = collect(args.inputs)
        inferencer = make_inferencer(
            args.config, args.checkpoint, args.device, args.cfg_options, args.trust_checkpoint
        )
        if pictures:
            drawn = detect_pictures(inferencer, pictures, args.out, args.score_thr)
            print(f"{len(pictures)} pictures, {drawn} boxes of score {args.score_thr:g} and more")
        for video in videos:
            detect_video(inferencer, video, args.out, args.score_thr)
        print(f"results: {args.out}")


if __name__ == "__main__":
    main()
