"""Draw a config's data set with its boxes and what the augmentations make of it, to files.

    python tools/analysis_tools/browse_dataset.py configs/e2emf_demo.py --out browsed

Each PNG has the picture as annotated and then, --times over, as the pipeline hands it to training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import DictAction


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", help="config file")
    add("--out", type=Path, required=True, help="new folder for the pictures")
    add("--split", choices=["train", "val", "test"], default="train", help="default: %(default)s")
    add("--count", type=int, default=20, help="at most so many pictures (%(default)s)")
    add("--times", type=int, default=3, help="augmented versions of each (%(default)s)")
    add("--seed", type=int, default=0, help="of the augmentations (%(default)s)")
    add("--data-root", help="folder to read the data set from, as in tools/train.py")
    add("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="override settings")
    args = parser.parse_args(argv)
    if args.count < 1 or args.times < 0:
        parser.error("--count must be at least 1 and --times at least 0")
    return args


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmengine.runner import set_random_seed

    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.analysis.browse import browse, data_set
    from mmdet_mobileformer.analysis.outputs import check_new
    from mmdet_mobileformer.train.build import read_config
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        check_new(args.out, "--out")
        cfg = read_config(args.config, args.cfg_options)
        dataset = data_set(cfg, args.split, args.data_root)
        set_random_seed(args.seed)
        written = sum(1 for _ in browse(dataset, args.out, args.count, args.times))
    print(f"{written} of {len(dataset)} pictures of the {args.split} set: {args.out}")


if __name__ == "__main__":
    main()
