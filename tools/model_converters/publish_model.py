"""Make a folder to ship out of a trained checkpoint: half-precision weights, config, log, model card.

    python tools/model_converters/publish_model.py CONFIG CHECKPOINT NEW_FOLDER --card card.json

The card's file is a JSON object; what it needs is said when something is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", help="config of the training")
    add("checkpoint", help="its checkpoint")
    add("folder", help="new folder; its name becomes the model's")
    add("--card", required=True, help="JSON file with what the model card says")
    add("--data-root", help="root of the data in the shipped config (default: the config's)")
    add("--log", help="log of the training, WORK_DIR/*/vis_data/scalars.json")
    add("--most-bytes", type=int, default=8_000_000, help="largest weights (default: 8 MB)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.train.publish import publish

    try:
        made = publish(
            args.config, args.checkpoint, args.card, args.folder, args.data_root, args.log,
            args.most_bytes,
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"publish_model.py: {error}") from None
    print(f"{made.weights}: {made.size:,} bytes, {made.params:,} parameters, SHA-256 {made.sha256}")
    if made.in_float32:
        print(f"in float32, since rounding would hurt: {', '.join(made.in_float32)}")
    print(f"config, model card and hashes: {made.folder}")


if __name__ == "__main__":
    main()
