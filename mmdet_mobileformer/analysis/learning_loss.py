"""The loss of a trained detector on the pictures that choices are made on (ours).

After a few minutes from scratch, AP on 200 real pictures is a handful of lucky boxes: E2E-MF-52M on
`person` had 0.009 at one learning rate and 0.003 at half and at twice of it (docs/learning/results.jsonl).
The loss sees every box of every picture. It compares trainings of one model, whose losses are the same
sum; not models.
"""

from __future__ import annotations

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner, load_checkpoint


def selection_loss(cfg: Config, checkpoint: str | Path) -> float:
    """The mean loss over the validation pictures of a config, of what its model learns from.

    Args:
        cfg: A config of :func:`~mmdet_mobileformer.analysis.learning_config.run_config`.
        checkpoint: Its weights; of a run with a moving average that.

    Returns:
        The sum of all losses, averaged over batches. Normalization has its moving statistics; what a
        loss draws at random (noise of denoising queries) is the same at every call.
    """
    register_all_modules(init_default_scope=True)
    losses = []
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        load_checkpoint(model, str(checkpoint), map_location="cpu")
        model.eval()
        for batch in Runner.build_dataloader(cfg.val_dataloader):
            data = model.data_preprocessor(batch)
            total, _ = model.parse_losses(model(**data, mode="loss"))
            losses.append(float(total))
    return sum(losses) / len(losses)
