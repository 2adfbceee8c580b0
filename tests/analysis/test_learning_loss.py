"""analysis/learning_loss.py: what trials are compared by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.runner import save_checkpoint  # noqa: E402
from test_learning import CANDIDATES, PEERS, places  # noqa: E402, F401

from mmdet_mobileformer.analysis.learning import Places, Run  # noqa: E402
from mmdet_mobileformer.analysis.learning_config import run_config  # noqa: E402
from mmdet_mobileformer.analysis.learning_loss import selection_loss  # noqa: E402


@pytest.mark.parametrize("name", ["e2emf_52m_fast", *PEERS])
def test_the_loss_is_that_of_the_weights_and_the_pictures(
    name: str, places: Places, tmp_path: Path  # noqa: F811
) -> None:
    register_all_modules(init_default_scope=True)
    cfg = run_config(Run("trial", "shapes", name, CANDIDATES[name].config, 1e-3), places)
    model = MODELS.build(cfg.model)
    model.init_weights()
    file = tmp_path / "weights.pth"
    save_checkpoint(dict(state_dict=model.state_dict(), meta={}), str(file))
    before = torch.get_rng_state()
    first = selection_loss(cfg, file)
    assert first > 0 and torch.isfinite(torch.tensor(first))
    # The same at every call, and the generator's state is left alone.
    assert selection_loss(cfg, file) == pytest.approx(first, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), before)
    # Other weights, another loss.
    if name == "rtmdet_tiny":
        biases = [key for key in model.state_dict() if "rtm_cls" in key and key.endswith("bias")]
        worse = {**model.state_dict(), **{key: torch.ones(6) for key in biases}}
        save_checkpoint(dict(state_dict=worse, meta={}), str(file))
        assert selection_loss(cfg, file) > 2 * first
