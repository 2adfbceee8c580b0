#!/usr/bin/env python
"""Say whether training waits for its data.

    python tools/analysis_tools/data_time.py work_dirs/e2emf_demo             the log of a training
    python tools/analysis_tools/data_time.py configs/e2emf_508m_coco.py       a few steps, tried out

Tried out, batch size and augmentation are the config's; the workers also load alone, which says how
short a step on a faster machine may be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", metavar="WORK_DIR|CONFIG", help="a work dir, a scalars.json, or a config to try out")
    add("--data-root", help="folder with the data, as for tools/train.py")
    add("--workers", type=int, default=2, help="processes that load data (default 2)")
    add("--steps", type=int, default=20, help="steps to try out (default 20)")
    add("--cfg-options", nargs="+", action=DictAction, help="override settings, key=value")
    args = parser.parse_args(argv)
    for name in ("workers", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, but must be at least 1")
    return args


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.analysis.data_time import from_log, try_out
    from mmdet_mobileformer.data.redirect import check_data, redirect_data_root
    from mmdet_mobileformer.train.build import read_config
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        if not args.what.endswith(".py"):
            print(from_log(args.what).text())
            return
        cfg = read_config(args.what, args.cfg_options)
        if args.data_root is not None:
            redirect_data_root(cfg, args.data_root)
        check_data(cfg, ("train",))
        waiting, rate = try_out(cfg, args.workers, args.steps)
    batch = cfg.train_dataloader.batch_size
    print(f"with {args.workers} workers, {waiting.text()}")
    print(
        f"alone they deliver {rate:.1f} images/s, which is enough for steps of {1e3 * batch / rate:.0f} "
        f"ms at batch {batch}"
    )


if __name__ == "__main__":
    main()
