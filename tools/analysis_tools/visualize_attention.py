"""Show what a detector sees in a picture: its tokens' and queries' attention, and the queries' boxes.

    python tools/analysis_tools/visualize_attention.py CONFIG CHECKPOINT PICTURE -o seen.html

The page has every block and head; seen.png, for slides, the last block of each scale. See
mmdet_mobileformer/analysis/attention.py.
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
    add("config", help="config file of a detector with a Mobile-Former backbone")
    add("checkpoint", help="its weights")
    add("picture", type=Path, help="picture file")
    add("-o", "--out", type=Path, required=True, help="a new .html or .png file")
    add("--queries", type=int, default=6, help="follow so many of the best queries (%(default)s)")
    add("--device", default="cpu", help="such as cpu or cuda:0 (%(default)s)")
    add(
        "--trust-checkpoint",
        action="store_true",
        help="load the checkpoint even if it can run code: only for files you made",
    )
    add("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="override settings")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() not in (".html", ".png"):
        parser.error(f"-o {args.out} must end in .html or .png")
    if args.queries < 1:
        parser.error("--queries must be at least 1")
    return args


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.analysis.attention import look_at
    from mmdet_mobileformer.analysis.attention_page import attention_page
    from mmdet_mobileformer.analysis.attention_sheet import attention_sheet
    from mmdet_mobileformer.analysis.inference import make_inferencer
    from mmdet_mobileformer.analysis.outputs import check_new
    from mmdet_mobileformer.analysis.pictures import read_picture
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        check_new(args.out, "-o")
        read_picture(args.picture)
        inferencer = make_inferencer(
            args.config, args.checkpoint, args.device, args.cfg_options, args.trust_checkpoint
        )
        seen = look_at(inferencer, args.picture, args.queries)
        seen.title = f"{args.picture.name} ({Path(args.config).stem})"
        write = attention_page if args.out.suffix.lower() == ".html" else attention_sheet
        write(seen, args.out)
    for query in seen.queries:
        box = ", ".join(f"{value:.0f}" for value in query.steps[-1].box)
        print(f"{seen.classes[query.label]} {query.score:.2f}  query {query.index}  box {box}")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
