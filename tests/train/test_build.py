"""From flags to a config: every bad input is one sentence before any work."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_run import make_run

from mmdet_mobileformer.train import build


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_run(tmp_path_factory.mktemp("tiny"))


def train_args(tiny: tuple[Path, Path], **kwargs: Any) -> Namespace:
    values = dict(config=str(tiny[0]), work_dir=None, amp=False, auto_scale_lr=False, resume=None)
    values.update(cfg_options=None, launcher="none", data_root=str(tiny[1]))
    return Namespace(**{**values, **kwargs})


def test_args(tiny: tuple[Path, Path], checkpoint: Path, **kwargs: Any) -> Namespace:
    values = dict(config=str(tiny[0]), checkpoint=str(checkpoint), work_dir=None, out=None)
    values.update(show=False, show_dir=None, wait_time=2, cfg_options=None, launcher="none")
    values.update(tta=False, data_root=str(tiny[1]))
    return Namespace(**{**values, **kwargs})


test_args.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(dict(state_dict={"fc.weight": torch.ones(2, 3)}), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_defaults(tiny: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    cfg = build.train_config(train_args(tiny))
    assert cfg.work_dir == "work_dirs/tiny" and cfg.launcher == "none"
    assert cfg.train_dataloader.dataset.dataset.dataset.data_root == str(tiny[1])
    assert cfg.val_evaluator[0].ann_file == f"{tiny[1]}/annotations/instances_val.json"
    assert "Training from scratch" in capsys.readouterr().out
    assert not cfg.get("resume") and cfg.optim_wrapper.type == "OptimWrapper"


def test_flags(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"train_dataloader.num_workers": 2, "train_dataloader.dataset.times": 3}
    cfg = build.train_config(
        train_args(tiny, work_dir=str(tmp_path), auto_scale_lr=True, cfg_options=options)
    )
    assert cfg.work_dir == str(tmp_path) and cfg.auto_scale_lr.enable is True
    assert cfg.train_dataloader.dataset.dataset.times == 3
    # Workers live as long as the run, or every epoch repeats its augmentations.
    assert cfg.train_dataloader.persistent_workers is True
    assert cfg.val_dataloader.persistent_workers is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "cannot be read: SyntaxError"),
        ("_base_ = './absent.py'", "cannot be read: FileNotFoundError"),
        ("x = 1 / 0", "cannot be read: ZeroDivisionError"),
        ("model = None", "lacks model, train_dataloader, train_cfg, optim_wrapper"),
    ],
)
def test_bad_configs(text: str, message: str, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        build.train_config(train_args(tiny, config=str(file), data_root=None))
    assert "\n" not in str(error.value)


def test_config_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x = 1")
    with pytest.raises(ValueError, match="Only py/yml"):
        build.read_config(str(tmp_path / "a.txt"))


def test_options_that_do_not_fit(tiny: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="--cfg-options does not fit"):
        build.read_config(str(tiny[0]), {"val_evaluator.7.metric": "bbox"})


def test_missing_data(tiny: tuple[Path, Path], tmp_path: Path, weights: Path) -> None:
    with pytest.raises(FileNotFoundError, match="instances_train.json"):
        build.train_config(train_args(tiny, data_root=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="instances_val.json"):
        build.test_config(test_args(tiny, weights, data_root=str(tmp_path)))


def test_auto_scale_lr_needs_its_base(tiny: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="base_batch_size"):
        build.train_config(
            train_args(tiny, auto_scale_lr=True, cfg_options={"auto_scale_lr": None})
        )


def test_resume(tiny: tuple[Path, Path], tmp_path: Path, weights: Path) -> None:
    cfg = build.train_config(train_args(tiny, resume="auto", work_dir=str(tmp_path)))
    assert cfg.resume is True and cfg.load_from is None
    with pytest.raises(FileNotFoundError, match="no.pth does not exist"):
        build.train_config(train_args(tiny, resume="no.pth"))
    with pytest.raises(ValueError, match="no state of a training"):
        build.train_config(train_args(tiny, resume=str(weights)))
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "gone.pth"))
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        build.train_config(train_args(tiny, resume="auto", work_dir=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_checkpoint(content: bytes, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "bad.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint .*bad.pth") as error:
        build.test_config(test_args(tiny, file))
    assert "\n" not in str(error.value)


def test_out_must_be_a_pickle(tiny: tuple[Path, Path], weights: Path) -> None:
    with pytest.raises(ValueError, match=r"--out a.json must end in .pkl"):
        build.test_config(test_args(tiny, weights, out="a.json"))


def test_show_dir(tiny: tuple[Path, Path], weights: Path) -> None:
    cfg = build.test_config(test_args(tiny, weights, show_dir="painted"))
    hook = cfg.default_hooks.visualization
    assert hook.draw is True and hook.test_out_dir == "painted" and not hook.get("show")
    with pytest.raises(ValueError, match="DetVisualizationHook"):
        options = {"default_hooks": dict(_delete_=True)}
        build.test_config(test_args(tiny, weights, show=True, cfg_options=options))


def test_tta_makes_a_flip(tiny: tuple[Path, Path], weights: Path) -> None:
    cfg = build.test_config(test_args(tiny, weights, tta=True))
    assert cfg.model.type == "DetTTAModel" and cfg.model.module.type == "E2EMF"
    last = cfg.test_dataloader.dataset.pipeline[-1]
    assert last["type"] == "TestTimeAug"
    assert {"flip", "flip_direction", "img_id"} <= set(last["transforms"][-1][0]["meta_keys"])


def test_tta_reaches_nested_data_sets() -> None:
    inner = dict(type="CocoDataset", pipeline=[dict(type="A")])
    nested = dict(type="ConcatDataset", datasets=[inner, dict(inner)])
    cfg = Config(
        dict(
            model=dict(type="E2EMF"),
            test_dataloader=dict(dataset=nested),
            tta_model=dict(type="DetTTAModel"),
            tta_pipeline=[dict(type="B")],
        )
    )
    build.use_test_time_augmentation(cfg)
    assert [d.pipeline for d in cfg.test_dataloader.dataset.datasets] == [[dict(type="B")]] * 2
