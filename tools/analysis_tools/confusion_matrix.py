"""Draw which classes a detector confuses, from predictions that tools/test.py wrote.

    python tools/test.py CONFIG CHECKPOINT --out predictions.pkl
    python tools/analysis_tools/confusion_matrix.py CONFIG predictions.pkl --out confusion

mmdet's program counts; see mmdet_mobileformer/analysis/mistakes.py.
"""

from __future__ import annotations

import argparse

from prediction_flags import prediction_parser, test_set


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = prediction_parser(
        __doc__, "pickle that tools/test.py --out wrote", "new folder for the PNG and the CSV"
    )
    add = parser.add_argument
    add("--score-thr", type=float, default=0.3, help="leave out lower scores (%(default)s)")
    add("--iou-thr", type=float, default=0.5, help="overlap of a match (%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.analysis.mistakes import confusion_matrix, write_confusion_matrix
    from mmdet_mobileformer.train.errors import one_sentence_errors

    with one_sentence_errors():
        dataset = test_set(args)
        counts = confusion_matrix(dataset, args.predictions, args.score_thr, args.iou_thr)
        classes = dataset.metainfo["classes"]
        title = f"score \u2265 {args.score_thr:g}, IoU \u2265 {args.iou_thr:g}, {len(dataset)} pictures"
        write_confusion_matrix(counts, classes, args.out, title)
    right = counts.diagonal()[:-1].sum()
    confused = counts[:-1, :-1].sum() - right
    print(f"right {right}, confused {confused}, missed {counts[:-1, -1].sum()}, of nothing {counts[-1].sum()}")
    pairs = [
        (int(counts[row, column]), classes[row], classes[column])
        for row in range(len(classes))
        for column in range(len(classes))
        if row != column and counts[row, column]
    ]
    for count, annotated, predicted in sorted(pairs, reverse=True)[:5]:
        print(f"  {annotated} taken for {predicted}: {count}")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
