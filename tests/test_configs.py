"""Every config of the repository loads, builds and is what it says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.apis import DetInferencer, inference_detector, init_detector  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402

from mmdet_mobileformer.data.shapes import CLASSES  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
DEMO = ROOT / "configs" / "e2emf_demo.py"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_a_config_is_complete_through_local_files_and_builds(file: Path) -> None:
    assert "mmdet::" not in file.read_text()
    cfg = Config.fromfile(str(file))
    assert cfg.pretrained is None
    assert cfg.custom_imports.imports == ["mmdet_mobileformer"]
    register_all_modules(init_default_scope=True)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert model.backbone.arch == cfg.model.backbone.arch == cfg.model.bbox_head.arch


def test_the_coco_config_is_the_paper_s_recipe() -> None:
    cfg = Config.fromfile(str(ROOT / "configs" / "e2emf_508m_coco.py"))
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.param_scheduler[0].milestones == [200]
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=1e-4, weight_decay=1e-4)
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.1
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size == 2
    # From scratch, as the file stands.
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 1.0
    assert cfg.model.backbone.norm_eval is False
    scales = cfg.train_pipeline[3].transforms[0][0].scales
    assert [min(s) for s in scales] == list(range(480, 801, 32)) and max(scales[0]) == 1333
    assert cfg.model.backbone.dynamic_relu == "spatial-aware"


def test_the_demo_config_knows_the_embedded_classes() -> None:
    cfg = Config.fromfile(str(DEMO))
    assert tuple(cfg.metainfo.classes) == CLASSES
    assert cfg.model.bbox_head.num_classes == len(CLASSES)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == CLASSES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights with what mmengine stores beside them."""
    register_all_modules(init_default_scope=True)
    model = MODELS.build(Config.fromfile(str(DEMO)).model)
    file = tmp_path_factory.mktemp("weights") / "demo.pth"
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))), file)
    return str(file)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("picture") / "noise.png"
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 255, (97, 130, 3), dtype=np.uint8))
    return str(file)


def test_mmdet_s_inference_api_works_on_our_configs(checkpoint: str, picture: str) -> None:
    model = init_detector(str(DEMO), checkpoint, device="cpu")
    result = inference_detector(model, picture).pred_instances
    assert result.bboxes.shape == (30, 4)
    assert (result.bboxes[:, 2] <= 130).all() and (result.bboxes[:, 3] <= 97).all()
    inferencer = DetInferencer(str(DEMO), checkpoint, device="cpu", show_progress=False)
    (prediction,) = inferencer(picture)["predictions"]
    assert prediction["scores"] == pytest.approx(result.scores.tolist(), abs=1e-5)
    assert np.allclose(prediction["bboxes"], result.bboxes.numpy(), atol=1e-3)
    assert inferencer.visualizer.dataset_meta["classes"] == CLASSES
