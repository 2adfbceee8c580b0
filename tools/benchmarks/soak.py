"""Train for an hour and, beside it, infer for an hour, and show that memory stays flat."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmdet_mobileformer.analysis.soak import (
    FLAT,
    growth,
    plot_memory,
    soak_inference,
    soak_training,
)
from mmdet_mobileformer.data.shapes import make_shapes

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="a new folder for the plot, the samples and the training")
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of each of the two")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument(
        "--most", type=float, default=FLAT, help="fail above this growth, in MiB per hour"
    )
    parser.add_argument("--data-root", default=str(ROOT / "data/shapes"), help="embedded data set")
    args = parser.parse_args()
    out = Path(args.out)
    if out.exists():
        raise SystemExit(f"soak.py: {out} exists already: give a new folder")
    if args.minutes * 60 / args.every < 80:
        raise SystemExit("soak.py: too few samples to judge: give more --minutes or a smaller --every")
    try:
        import psutil  # noqa: F401
    except ImportError:
        raise SystemExit("soak.py: psutil is missing: pip install psutil") from None
    data_root = Path(args.data_root)
    make_shapes(data_root)
    out.mkdir(parents=True)
    config = ROOT / "configs/e2emf_demo.py"
    # Memory does not depend on speed, so the two share the machine.
    with ThreadPoolExecutor() as both:
        work_dir = out / "training"
        jobs = {
            "training": both.submit(
                soak_training, ROOT, data_root, work_dir, args.minutes, args.every
            ),
            "inference": both.submit(soak_inference, config, data_root, args.minutes, args.every),
        }
        runs = {name: job.result() for name, job in jobs.items()}
    (out / "samples.json").write_text(json.dumps(runs))
    picture = plot_memory(runs, out / "memory.png")
    flat = True
    for name, samples in runs.items():
        slope = growth(samples)
        flat = flat and slope <= args.most
        last = samples[-1]
        print(f"{name}: {last[0]:.0f} minutes, {last[1]:.0f} MiB at the end, {slope:+.1f} MiB per hour")
    print(f"plot: {picture}")
    if not flat:
        raise SystemExit(f"soak.py: memory grows by more than {args.most:g} MiB per hour")


if __name__ == "__main__":
    main()
