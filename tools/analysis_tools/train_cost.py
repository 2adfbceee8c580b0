"""Prints what a training run needs: memory of a GPU, iterations, arithmetic, and hours.

    python tools/analysis_tools/train_cost.py configs/e2emf_508m_coco.py --shape 800 1333

Batch size and epochs are the config's. The memory is what the forward pass keeps for the backward
pass and what AdamW holds, in float32, see mmdet_mobileformer/analysis/train_cost.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmdet_mobileformer.analysis.flops import model_from_config  # noqa: E402
from mmdet_mobileformer.analysis.train_cost import seconds_per_step, train_cost  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", help="config file of a detector")
    add("--shape", type=int, nargs=2, default=[800, 1333], metavar="N", help="height width")
    add("--gpus", type=int, default=8, help="number of GPUs (default 8)")
    add("--images", type=int, default=118287, help="training images (default COCO train2017's)")
    add("--seconds", type=float, help="seconds per iteration, to print the hours of the run")
    add(
        "--measure",
        type=int,
        metavar="SIZE",
        help="also time a training step of two SIZE x SIZE images on this machine's CPU",
    )
    add("--cfg-options", nargs="+", action=DictAction, help="override settings, key=value")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # mmengine would print a line for every initialised parameter.
    MMLogger.get_instance("train_cost", log_level="WARNING")
    try:
        model = model_from_config(args.config, args.cfg_options)
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options or {})
        batch = cfg.train_dataloader.batch_size
        epochs = cfg.train_cfg.max_epochs
        cost = train_cost(model, tuple(args.shape), batch, args.gpus, args.images, epochs)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"train_cost: {error}") from None
    size = f"{batch} x 3 x {args.shape[0]} x {args.shape[1]}"
    print(f"per GPU, {size}, float32:")
    print(f"  kept for the backward pass         {cost.kept / 1e9:8.2f} GB")
    print(f"  weights, gradients, AdamW's state  {cost.state / 1e9:8.2f} GB")
    print(f"  multiply-adds of a step            {cost.madds / 1e9:8.1f} G")
    print(f"the run, {args.images} images on {args.gpus} GPUs, {epochs} epochs:")
    print(f"  iterations of an epoch             {cost.iterations:8d}")
    print(f"  iterations                         {cost.iterations * epochs:8d}")
    total = cost.madds * args.gpus * cost.iterations * epochs
    print(f"  multiply-adds                      {total / 1e18:8.3f} * 10^18")
    if args.seconds is not None:
        print(f"  hours at {args.seconds:.3f} s per iteration     {cost.hours(args.seconds):8.1f}")
    if args.measure is not None:
        seconds = seconds_per_step(cfg, args.measure)
        print(f"a step of 2 x 3 x {args.measure} x {args.measure} on this CPU: {seconds:.2f} core-seconds")


if __name__ == "__main__":
    main()
