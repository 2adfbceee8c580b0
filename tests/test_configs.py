"""Every config of the repository loads, builds and is what it says."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet.apis import DetInferencer, inference_detector, init_detector  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from mmdet_mobileformer.data.shapes import CLASSES  # noqa: E402
from mmdet_mobileformer.models import DETECTORS, FAMILIES, Detector, config_path  # noqa: E402
from mmdet_mobileformer.pairing import check_pairing  # noqa: E402
from mmdet_mobileformer.train.build import read_config  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs" / "e2emf_demo.py"
BY_EPOCHS = ROOT / "configs" / "benchmarks" / "e2emf_demo_by_epochs.py"
PERSON = ROOT / "configs" / "e2emf_52m_person.py"
PERSON_AGAIN = ROOT / "configs" / "e2emf_52m_person_again.py"
#: The zoo: all configs of detectors.
ZOO = [Path(config_path(detector.config)) for detector in DETECTORS]


def load(name: str) -> Config:
    return Config.fromfile(config_path(name))


@pytest.mark.parametrize("file", [*ZOO, DEMO, BY_EPOCHS, PERSON, PERSON_AGAIN], ids=lambda f: f.stem)
def test_a_config_is_complete_through_local_files_and_builds(file: Path) -> None:
    assert "::" not in file.read_text()
    cfg = Config.fromfile(str(file))
    assert cfg.pretrained is None
    assert cfg.custom_imports.imports == ["mmdet_mobileformer"]
    check_pairing(cfg)
    register_all_modules(init_default_scope=True)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert model.backbone.arch == cfg.model.backbone.arch
    # What tools/train.py does with `pretrained` finds what it changes.
    assert cfg.model.backbone.norm_eval is False
    assert cfg.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.config)
def test_a_config_is_the_model_of_its_row(detector: Detector) -> None:
    cfg = load(detector.config)
    assert cfg.model.backbone.arch == detector.arch
    assert detector.arch in Path(detector.config).name.split("_")
    assert cfg.train_cfg.max_epochs == FAMILIES[detector.family].epochs
    width, height = next(t.scale for t in cfg.test_pipeline if t.type == "Resize")
    padding = cfg.model.data_preprocessor.get("pad_size_divisor", 1)
    assert detector.shape == tuple(-(-side // padding) * padding for side in (height, width))
    assert cfg.test_dataloader.dataset.pipeline == cfg.test_pipeline
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_pipeline
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline


def repeated(own: Any, base: Any, name: str) -> list[str]:
    """Settings of a config that its bases have already."""
    if isinstance(own, dict) and isinstance(base, dict) and not own.get("_delete_"):
        return [r for k in own if k in base for r in repeated(own[k], base[k], f"{name}.{k}")]
    return [name] if own == base else []


@pytest.mark.parametrize("file", ZOO, ids=lambda f: f.stem)
def test_a_config_states_differences_only(file: Path) -> None:
    own: dict[str, Any] = {}
    code, names = ast.parse(file.read_text()), []
    for node in list(code.body):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_":
            names = ast.literal_eval(node.value)
            code.body.remove(node)
    bases = Config()
    for base in [names] if isinstance(names, str) else names:
        bases.merge_from_dict(Config.fromfile(str(file.parent / base)).to_dict())
    # As mmengine does: the contents of the bases stand under the name _base_.
    exec(compile(code, str(file), "exec"), {"_base_": copy.deepcopy(bases)}, own)
    found = [r for key in own if key in bases for r in repeated(own[key], bases[key], key)]
    assert not found, f"{file.name} repeats its bases"


def test_the_coco_config_is_the_paper_s_recipe() -> None:
    cfg = load("e2emf_508m_coco")
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


@pytest.mark.parametrize("arch", ["294m", "214m", "151m"])
def test_the_zoo_differs_in_the_backbone_alone(arch: str) -> None:
    large, small = load("e2emf_508m_coco"), load(f"e2emf_{arch}_coco")
    for part in (small.model.backbone, small.model.bbox_head):
        assert part.arch == arch
        part.arch = "508m"
    assert small.to_dict() == large.to_dict()


@pytest.mark.parametrize(("arch", "size"), [("96m", 640), ("52m", 480), ("26m", 320)])
def test_the_edge_family_is_small_and_for_small_pictures(arch: str, size: int) -> None:
    cfg = load(f"e2emf_{arch}_coco")
    head = cfg.model.bbox_head
    assert (head.arch, head.num_blocks, head.embed_dims) == (arch, (2, 1, 1), 128)
    assert cfg.test_pipeline[1].scale == (size, size)
    plain, cropped = cfg.train_pipeline[3].transforms
    assert [scale[0] for scale in plain[0].scales] == list(range(320, 641, 32))
    assert cropped[-1] == plain[0]
    # A crop always fits the picture it is taken from, whose longer side is at least 480.
    assert max(cropped[1].crop_size) <= min(scale[0] for scale in cropped[0].scales)


def test_the_person_config_grows_when_the_loop_lets_it() -> None:
    cfg = Config.fromfile(str(PERSON))
    (switch,) = (hook for hook in cfg.custom_hooks if hook.type == "ClockPipelineSwitchHook")
    assert cfg.train_cfg.cut_at == [switch.switch_share]
    sizes = [
        {t.get("scale", t.get("crop_size")) for t in pipeline if t.type in ("RandomResize", "RandomCrop")}
        for pipeline in (cfg.train_dataloader.dataset.pipeline, switch.switch_pipeline)
    ]
    assert sizes == [{(176, 176)}, {(256, 256)}]
    assert next(t.scale for t in cfg.test_pipeline if t.type == "Resize") == (320, 320)
    heads = (cfg.model.bbox_head, cfg.model.aux_head)
    assert [head.num_classes for head in heads] == [1, 1]
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.metainfo.classes == ("person",)


def test_the_second_training_of_persons_differs_in_data_and_rate() -> None:
    first, second = Config.fromfile(str(PERSON)), Config.fromfile(str(PERSON_AGAIN))
    assert second.model == first.model and second.val_dataloader == first.val_dataloader
    assert second.optim_wrapper.optimizer.lr == first.optim_wrapper.optimizer.lr / 2
    assert second.train_dataloader.dataset.filter_cfg.filter_empty_gt is False
    (switch,) = (hook for hook in second.custom_hooks if hook.type == "ClockPipelineSwitchHook")
    assert second.train_cfg.cut_at == [switch.switch_share]
    pipeline = list(second.train_dataloader.dataset.pipeline)
    assert [t.type for t in pipeline if t not in switch.switch_pipeline] == ["CachedMosaic"]


def test_the_demo_by_epochs_is_the_demo() -> None:
    demo, by_epochs = Config.fromfile(str(DEMO)), Config.fromfile(str(BY_EPOCHS))
    changed = {key for key in by_epochs if by_epochs[key] != demo.get(key)}
    waits = {"model", "find_unused_parameters"}
    assert changed == {"train_cfg", "param_scheduler", "max_epochs", *waits}
    # In the steps that are compared all of the model learns.
    assert demo.model.pop("dense_first") and not by_epochs.model.pop("dense_first")
    assert demo.model == by_epochs.model


def test_the_test_size_is_chosen_on_the_command_line() -> None:
    options = {"test_dataloader.dataset.pipeline.1.scale": (416, 416)}  # as in the README
    cfg = read_config(config_path("e2emf_26m_coco"), options)
    assert [t.get("scale") for t in cfg.test_dataloader.dataset.pipeline][1] == (416, 416)


def test_the_ablations_change_one_thing_each() -> None:
    base = load("e2emf_508m_coco").model
    shared = load("e2emf_508m_shared_position_coco").model
    assert shared.bbox_head.pop("position") == "shared" and shared == base
    first = load("e2emf_508m_first_token_coco").model
    assert first.backbone.dynamic_relu == "first-token"
    first.backbone.dynamic_relu = "spatial-aware"
    assert first == base
    one = load("e2emf_508m_one_scale_coco").model
    assert one.backbone.out_indices == (3,) and one.bbox_head.scales == (32,)
    register_all_modules(init_default_scope=True)
    with torch.device("meta"):
        assert [len(scale.blocks) for scale in MODELS.build(one).bbox_head.scales] == [9]


def test_retinanet_is_1x() -> None:
    cfg = load("retinanet_mobileformer_96m_fpn_1x_coco")
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[1].milestones == [8, 11]
    assert cfg.train_pipeline[2].scale == (1333, 800)
    # ImageNet weights learn as fast as the rest: this is not DETR.
    assert cfg.pretrained_lr_mult == 1.0


@pytest.mark.parametrize("name", ["e2emf_26m_coco", "retinanet_mobileformer_26m_fpn_1x_coco"])
def test_a_detector_learns_and_predicts(name: str) -> None:
    register_all_modules(init_default_scope=True)
    model = MODELS.build(load(name).model)
    model.init_weights()
    samples = []
    for boxes in ([[10.0, 20.0, 80.0, 90.0]], []):
        sample = DetDataSample(metainfo=dict(img_shape=(128, 160), scale_factor=(1.0, 1.0)))
        labels = torch.zeros(len(boxes), dtype=torch.long)
        sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=labels)
        samples.append(sample)
    data = dict(inputs=[torch.randint(0, 255, (3, 128, 160)) for _ in samples], data_samples=samples)
    data = model.data_preprocessor(data, training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
    with torch.no_grad():
        results = model.eval()(**data, mode="predict")
    assert all(len(r.pred_instances.scores) <= 100 for r in results)


def test_the_demo_config_knows_the_embedded_classes() -> None:
    cfg = Config.fromfile(str(DEMO))
    assert tuple(cfg.metainfo.classes) == CLASSES
    assert cfg.model.bbox_head.num_classes == len(CLASSES)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == CLASSES


#: Class names that only the checkpoint knows.
MADE_UP = tuple(f"thing {index}" for index in range(80))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights with what mmengine stores beside them."""
    register_all_modules(init_default_scope=True)
    model = MODELS.build(load("e2emf_26m_coco").model)
    file = tmp_path_factory.mktemp("weights") / "edge.pth"
    meta = dict(dataset_meta=dict(classes=MADE_UP))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), file)
    return str(file)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("picture") / "noise.png"
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 255, (97, 130, 3), dtype=np.uint8))
    return str(file)


def test_mmdet_s_inference_api_works_on_our_configs(checkpoint: str, picture: str) -> None:
    config = config_path("e2emf_26m_coco")
    model = init_detector(config, checkpoint, device="cpu")
    result = inference_detector(model, picture).pred_instances
    assert result.bboxes.shape == (100, 4)
    assert (result.bboxes[:, 2] <= 130).all() and (result.bboxes[:, 3] <= 97).all()
    inferencer = DetInferencer(config, checkpoint, device="cpu", show_progress=False)
    (prediction,) = inferencer(picture)["predictions"]
    assert prediction["scores"] == pytest.approx(result.scores.tolist(), abs=1e-5)
    assert np.allclose(prediction["bboxes"], result.bboxes.numpy(), atol=1e-3)
    assert inferencer.visualizer.dataset_meta["classes"] == MADE_UP
