"""COCO's error analysis: how much AP each kind of error costs, per class, as plots and numbers.

    python tools/test.py CONFIG CHECKPOINT --out predictions.pkl
    python tools/analysis_tools/error_analysis.py CONFIG predictions.pkl --out errors

mmdet's program computes and draws; see mmdet_mobileformer/analysis/mistakes.py. Instead of the pickle
it takes JSON in COCO's results form.
"""

from __future__ import annotations

import argparse

from prediction_flags import prediction_parser, test_set


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = prediction_parser(
        __doc__,
        "pickle of tools/test.py --out, or .json in COCO's results form",
        "new folder for the plots",
    )
    add = parser.add_argument
    add("--extra-plots", action="store_true", help="also bars and histograms by area")
    add("--overall", action="store_true", help="no plots of each class")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.analysis.mistakes import CURVES, annotation_file, error_analysis
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        dataset = test_set(args)
        scores = error_analysis(
            annotation_file(dataset),
            args.predictions,
            args.out,
            dataset.metainfo["classes"],
            args.extra_plots,
            args.overall,
        )
    before = 0.0
    print("AP over all classes and sizes, as ever more is forgiven:")
    for name, meaning in CURVES:
        print(f"  {name:4} {scores[name]:.3f} (+{scores[name] - before:.3f})  {meaning}")
        before = scores[name]
    print(f"plots: {args.out / 'bbox'}")


if __name__ == "__main__":
    main()
