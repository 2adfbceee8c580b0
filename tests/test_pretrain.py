"""ImageNet: the configs are the paper's recipes, and mmpretrain's own flow runs them.

mmpretrain needs an environment of its own (docs/imagenet.md): without it the second half skips.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from image_folder import CLASSES, make_image_folder
from mmengine.config import Config
from test_golden import TOLERANCE, worst

from mmdet_mobileformer import ARCHS, MobileFormer, convert_official_state_dict
from mmdet_mobileformer.golden import GOLDEN, Golden, image, official_state_dict
from mmdet_mobileformer.imagenet import BATCH_PER_GPU, EPOCHS, GPUS, RECIPES

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "imagenet"


def config(arch: str) -> Config:
    # The import of mmpretrain is left out, so that configs are checked without it.
    file = CONFIGS / f"mobileformer_{arch}_in1k.py"
    return Config.fromfile(str(file), import_custom_modules=False)


def transforms(cfg: Config) -> dict[str, Any]:
    return {step.type: step for step in cfg.train_dataloader.dataset.pipeline}


def test_every_arch_has_its_config_and_recipe() -> None:
    files = {f.name for f in CONFIGS.glob("*.py")}
    assert files == {f"mobileformer_{arch}_in1k.py" for arch in ARCHS}
    assert list(RECIPES) == list(ARCHS)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_config_is_the_recipe(arch: str) -> None:
    cfg, recipe = config(arch), RECIPES[arch]
    assert cfg.model.backbone.arch == cfg.model.head.arch == arch
    assert cfg.optim_wrapper.optimizer == dict(
        type="AdamW", lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    augments = (cfg.model.get("train_cfg") or {}).get("augments")
    assert augments == (dict(type="Mixup", alpha=recipe.mixup) if recipe.mixup else None)
    steps = transforms(cfg)
    erase = steps["RandomErasing"].erase_prob if "RandomErasing" in steps else 0
    assert erase == recipe.random_erase
    assert ("RandAugment" in steps) is recipe.rand_augment
    if recipe.rand_augment:
        step = steps["RandAugment"]
        assert (step.magnitude_level, step.total_level, step.magnitude_std) == (9, 10, 0.5)
    # No colour jitter, no drop path; dropout is the arch's.
    assert "ColorJitter" not in steps and "drop_path_rate" not in cfg.model.backbone
    assert cfg.model.head.get("dropout") is None
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == EPOCHS
    assert cfg.param_scheduler[-1].type == "CosineAnnealingLR"
    assert cfg.train_dataloader.batch_size == BATCH_PER_GPU
    assert cfg.auto_scale_lr.base_batch_size == GPUS * BATCH_PER_GPU
    assert f"top-1 {ARCHS[arch].top1} %" in Path(cfg.filename).read_text().splitlines()[0]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_facts_say_the_same(arch: str) -> None:
    facts = ROOT.parent / "shared" / "reference" / "mobile_former.md"
    if not facts.is_file():
        pytest.skip("the reference facts are not part of the repository")
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in facts.read_text().splitlines()]
    (row,) = [row for row in rows if row[:1] == [arch] and row[3] == str(ARCHS[arch].top1)]
    params, madds, top1, *recipe = map(float, row[1:])
    spec, (lr, decay, mixup, erase, _) = ARCHS[arch], RECIPES[arch]
    assert [params, madds, top1] == [spec.params, spec.madds, spec.top1]
    assert recipe == [lr, decay, spec.dropout, mixup, erase]


@pytest.mark.skipif(
    importlib.util.find_spec("mmpretrain") is not None, reason="mmpretrain is installed"
)
def test_without_mmpretrain_the_import_is_one_sentence() -> None:
    with pytest.raises(ImportError, match=r"needs mmpretrain.*docs/imagenet\.md"):
        importlib.import_module("mmdet_mobileformer.pretrain")


@pytest.fixture(scope="module")
def mmpretrain() -> Any:
    """mmpretrain with our modules registered, as in a run of one of the configs."""
    package = pytest.importorskip("mmpretrain", reason="mmpretrain has an environment of its own")
    import mmdet_mobileformer.pretrain  # noqa: F401

    return package


def build(arch: str, **head: Any) -> Any:
    from mmpretrain.registry import MODELS

    cfg = config(arch).model
    cfg.head.update(head)
    return MODELS.build(cfg)


@pytest.mark.parametrize(
    "golden",
    [golden for golden in GOLDEN if golden.dynamic_relu == "first-token"],
    ids=lambda golden: golden.arch,
)
def test_an_official_checkpoint_gives_the_golden_logits(
    mmpretrain: Any, golden: Golden, tmp_path: Path
) -> None:
    from mmengine.runner import load_checkpoint

    official = official_state_dict(golden.arch)
    file = tmp_path / "converted.pth"
    torch.save({"state_dict": convert_official_state_dict(official, golden.arch)}, file)
    model = build(golden.arch).eval()
    load_checkpoint(model, str(file), map_location="cpu", strict=True)
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            logits = model.to(dtype)(image((2, 3, 224, 224)).to(dtype), mode="tensor")
        assert worst(logits, golden.logits.std, golden.logits.at) <= tolerance


def test_the_backbone_is_found_by_name_and_keeps_its_outputs(mmpretrain: Any) -> None:
    from mmpretrain.registry import MODELS

    backbone = MODELS.build(dict(type="MobileFormer", arch="26m", out_indices=(1, 3)))
    pictures = torch.randn(2, 3, 64, 64)
    maps = backbone.eval()(pictures)
    assert isinstance(backbone, MobileFormer) and [m.shape[1] for m in maps] == [24, 96]
    backbone.out_tokens = True
    first, (features, tokens) = backbone(pictures)
    assert torch.equal(first, maps[0]) and torch.equal(features, maps[1])
    assert tokens.shape == (2, 3, 128)


def test_wrong_pairings_are_one_sentence(mmpretrain: Any) -> None:
    from mmpretrain.registry import MODELS

    with pytest.raises(ValueError, match="let it end with 3"):
        MODELS.build(dict(type="MobileFormer", arch="26m", out_indices=(1, 2), out_tokens=True))
    head = MODELS.build(dict(type="MobileFormerClsHead", arch="26m", num_classes=2))
    with pytest.raises(ValueError, match="set out_tokens=True"):
        head((torch.randn(2, 96, 2, 2),))


def test_the_head_starts_as_the_official_one(mmpretrain: Any) -> None:
    model = build("26m", num_classes=10)
    model.init_weights()
    assert model.head.dropout.p == ARCHS["26m"].dropout
    assert 0.009 < model.head.fc2.weight.std().item() < 0.011
    assert not model.head.fc2.bias.any()


def tool(name: str, *args: object, cwd: Path) -> None:
    """One of mmpretrain's own command lines."""
    import mmpretrain

    command = [sys.executable, str(Path(mmpretrain.__file__).parent / ".mim" / "tools" / name)]
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": python_path, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.slow
def test_mmpretrain_trains_evaluates_and_its_checkpoint_fits_a_detector(
    mmpretrain: Any, tmp_path: Path
) -> None:
    folder = make_image_folder(tmp_path / "pictures", train=64)
    options = ["model.head.num_classes=2", "model.data_preprocessor.num_classes=2"]
    for split in ("train", "val", "test"):
        options += [
            f"{split}_dataloader.dataset.data_root={folder}",
            f"{split}_dataloader.num_workers=0",
            f"{split}_dataloader.persistent_workers=False",
            f"{split}_dataloader.batch_size=16",
        ]
    options += ["train_dataloader.dataset.pipeline.1.scale=64"]
    for split in ("val", "test"):
        options += [
            f"{split}_dataloader.dataset.pipeline.1.scale=72",
            f"{split}_dataloader.dataset.pipeline.2.crop_size=64",
            f"{split}_evaluator.topk=1",
        ]
    options += ["train_cfg.max_epochs=12", "train_cfg.val_interval=12", "param_scheduler.1.end=12"]
    file = CONFIGS / "mobileformer_52m_in1k.py"
    work_dir = tmp_path / "work"
    tool("train.py", file, "--work-dir", work_dir, "--cfg-options", *options, cwd=tmp_path)
    checkpoint = work_dir / "epoch_12.pth"
    tool(
        "test.py",
        *(file, checkpoint, "--work-dir", tmp_path / "test", "--out", tmp_path / "metrics.json"),
        *("--out-item", "metrics", "--cfg-options", *options),
        cwd=tmp_path,
    )
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    (validated,) = [row["accuracy/top1"] for row in rows if "accuracy/top1" in row]
    tested = json.loads((tmp_path / "metrics.json").read_text())["accuracy/top1"]
    assert tested == pytest.approx(validated, abs=1e-6)
    assert tested >= 90, "two textures are easy to tell apart"

    # One line initialises a detector's backbone.
    backbone = MobileFormer(
        "52m", out_indices=(1, 2, 3), init_cfg=dict(type="Pretrained", checkpoint=str(checkpoint))
    )
    backbone.init_weights()
    trained = torch.load(checkpoint, weights_only=True)
    assert trained["meta"]["dataset_meta"]["classes"] == CLASSES
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, trained["state_dict"][f"backbone.{key}"])
