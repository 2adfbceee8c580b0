"""Overfit eight images of COCO: shows that head, losses and initialisation are right."""

from __future__ import annotations

import argparse

from mmdet_mobileformer.analysis.overfit import overfit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_root", help="folder in COCO's layout")
    parser.add_argument("--minutes", type=float, default=50.0, help="budget of all cores")
    parser.add_argument("--arch", default="151m", help="backbone")
    parser.add_argument("--size", type=int, default=320, help="side of the input in pixels")
    parser.add_argument("--lr", type=float, default=3e-4, help="highest learning rate")
    parser.add_argument("--least-ap", type=float, default=0.0, help="fail below this COCO AP")
    args = parser.parse_args()
    try:
        scores = overfit(
            args.data_root, args.minutes, args.arch, size=args.size, peak_lr=args.lr
        )
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"overfit.py: {error}") from None
    ap = scores["coco/bbox_mAP"]
    print(f"COCO AP on the training images {ap:.3f} after {scores['minutes']:.1f} minutes")
    if ap < args.least_ap:
        raise SystemExit(f"overfit.py: AP {ap:.3f} is below {args.least_ap}")


if __name__ == "__main__":
    main()
