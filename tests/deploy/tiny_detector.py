"""A tiny E2E-MF with weights that are not as new, as a config and a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmdet_mobileformer  # noqa: F401  (registers the modules)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from tiny_run import CONFIG  # noqa: E402

#: What makes the head's loss a sigmoid, and its queries start from boxes.
SIGMOID = """
model['bbox_head'].update(
    reference_boxes=True,
    loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
)
"""


def build(config: Path) -> Any:
    """The config's detector, with queries that find different things."""
    cfg = Config.fromfile(str(config))
    init_default_scope("mmdet")
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    head = detector.bbox_head
    # Blocks that move boxes by several of their sizes make rounding errors grow from block to block.
    spread = 0.05 if head.reference_boxes and head.deltas == "box" else 0.5
    torch.nn.init.normal_(head.fc_cls.weight, std=0.5)
    torch.nn.init.normal_(head.fc_reg.weight, std=spread)
    torch.nn.init.normal_(head.query_embedding.weight, std=0.5)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    # As new, tokens hardly move the dynamic ReLU's slopes: pooling would not matter.
    for module in detector.backbone.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=2 * module.in_features**-0.5)
    return detector.eval()


def write(folder: Path, more: str = "", meta: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Config and checkpoint in a folder; ``more`` is added to the config."""
    config, checkpoint = folder / "tiny.py", folder / "tiny.pth"
    config.write_text(CONFIG + more)
    known = {"dataset_meta": {"classes": ("cat", "dog")}} if meta is None else meta
    torch.save({"state_dict": build(config).state_dict(), "meta": known}, checkpoint)
    return config, checkpoint
