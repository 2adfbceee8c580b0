#!/usr/bin/env python
"""Check the detector on a CUDA GPU: forward against the CPU, training steps with and without AMP."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

TOLERANCE = 1e-3


def main() -> None:
    """Print the results; exits with 1 when there is no GPU or a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[1] / "configs" / "e2emf_demo.py"
    parser.add_argument(
        "config", nargs="?", default=str(default), help="config (default: the demo)"
    )
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_smoke.py: PyTorch sees no CUDA GPU here, so nothing was checked")

    from mmengine.registry import init_default_scope

    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.train.build import read_config
    from mmdet_mobileformer.train.errors import one_sentence_errors
    from mmdet_mobileformer.train.smoke import forward_difference, train_steps

    with one_sentence_errors():
        cfg = read_config(args.config)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        print(f"GPU: {torch.cuda.get_device_name()}, torch {torch.__version__}")
        difference = forward_difference(cfg, "cuda", args.size)
        print(f"forward, largest difference to the CPU: {difference:.2e} (allowed {TOLERANCE})")
        for amp in (False, True):
            steps = train_steps(cfg, "cuda", amp, size=args.size)
            print(
                f"training, amp {'on ' if amp else 'off'}: losses "
                f"{', '.join(f'{loss:.3f}' for loss in steps.losses)}; {steps.seconds:.3f} s per "
                f"step; peak {steps.peak_memory / 2**20:.0f} MiB"
            )
    if not difference <= TOLERANCE:
        raise SystemExit("gpu_smoke.py: the GPU's forward differs from the CPU's")


if __name__ == "__main__":
    main()
