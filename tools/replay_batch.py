#!/usr/bin/env python
"""Repeat the training step that stopped a run: tools/replay_batch.py CONFIG FILE [flags].

FILE is the nonfinite_iter_N.pth that the run names. Exit code 0: all is finite now; 1: it is not.
"""

from __future__ import annotations

import argparse

from mmengine.config import DictAction


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Repeat the training step that stopped a run.")
    parser.add_argument("config", help="config file; the copy in the work dir has all settings")
    parser.add_argument("file", help="what the run saved: nonfinite_iter_N.pth")
    parser.add_argument("--device", default="cpu", help="where to run it (default: cpu)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of the config, to try a cure",
    )
    try:
        return parser.parse_args(argv)
    except (AssertionError, ValueError) as error:  # mmengine's reading of KEY=VALUE
        parser.error(f"--cfg-options needs KEY=VALUE with matching brackets ({error})")


def main() -> None:
    """Run the step and print what it finds."""
    args = parse_args()
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.train.build import read_config
    from mmdet_mobileformer.train.errors import one_sentence_errors
    from mmdet_mobileformer.train.replay import replay

    with one_sentence_errors():
        info, finding = replay(read_config(args.config, args.cfg_options), args.file, args.device)
    print(f"saved at iteration {info['iteration']} of epoch {info['epoch']}: {info['where']}")
    for image in info["images"]:
        print(f"  {image}")
    for name, value in finding.losses.items():
        print(f"{name}: {value:.6g}")
    if finding.where is None:
        print("now: all losses and gradients are finite")
        return
    print(f"now: first not finite is {finding.where}")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
