"""train/inference.py and configs/e2emf_96m_coco_fast.py: what inference is left with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402

from mmdet_mobileformer.models import config_path  # noqa: E402
from mmdet_mobileformer.train.inference import inference_model, inference_state  # noqa: E402


@pytest.fixture(autouse=True)
def scope() -> None:
    register_all_modules(init_default_scope=True)


def load(name: str) -> Any:
    return Config.fromfile(config_path(name))


def count(model: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MODELS.build(model).parameters())


def test_the_fast_recipe_has_the_paper_s_inference() -> None:
    fast, paper = load("e2emf_96m_coco_fast"), load("e2emf_96m_coco")
    plain = inference_model(fast.model)
    assert (plain.type, plain.bbox_head.type) == ("E2EMF", "E2EMFHead")
    assert count(plain) <= count(paper.model)
    assert count(plain) < count(fast.model)
    head = plain.bbox_head
    assert head.get("num_queries", 100) <= 100 and "nms" not in plain.test_cfg
    for key in ("num_blocks", "embed_dims", "side_ffn_dims"):
        assert head[key] == paper.model.bbox_head[key], key
    assert head.query_ffn_dims <= paper.model.bbox_head.query_ffn_dims
    assert fast.test_dataloader == paper.test_dataloader
    # The config itself stays as it is, and others come back unchanged.
    assert fast.model.type == "E2EMFWithAuxiliary"
    assert inference_model(paper.model) == paper.model


def test_the_weights_that_are_left_predict_the_same() -> None:
    fast = load("e2emf_96m_coco_fast").model
    fast.bbox_head.groups = 1
    model = MODELS.build(fast).eval()
    state = inference_state(model.state_dict())
    assert len(state) < len(model.state_dict())
    plain = MODELS.build(inference_model(fast)).eval()
    plain.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(model(images), plain(images)):
            torch.testing.assert_close(ours, theirs)


def test_decay_is_off_for_norms_biases_tokens_and_queries() -> None:
    cfg = load("e2emf_96m_coco_fast")
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {
        names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]
    }
    parameters = dict(model.named_parameters())
    assert {name for name in decayed if parameters[name].dim() == 1} == set()
    assert not {"backbone.tokens", "bbox_head.query_embedding.weight"} & decayed
    assert "bbox_head.fc_cls.weight" in decayed
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(parameters)
