"""The one variable `pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmdet_mobileformer.train.pretrained import apply_pretrained


def config(tmp_path: Path, **kwargs: Any) -> Config:
    return Config(
        dict(
            model=dict(backbone=dict(type="MobileFormer", norm_eval=False)),
            optim_wrapper=dict(
                paramwise_cfg=dict(
                    custom_keys=dict(backbone=dict(lr_mult=1.0), x=dict(decay_mult=0.0))
                )
            ),
            work_dir=str(tmp_path / "work"),
            **kwargs,
        )
    )


def test_none_says_one_sentence_and_changes_nothing(tmp_path: Path) -> None:
    cfg = config(tmp_path, pretrained=None)
    before, said = cfg.to_dict(), []
    apply_pretrained(cfg, said.append)
    assert cfg.to_dict() == before
    assert len(said) == 1 and "--cfg-options pretrained=FILE" in said[0] and "\n" not in said[0]


def test_a_file_sets_the_backbone_up(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    cfg, said = config(tmp_path, pretrained=str(file)), []
    apply_pretrained(cfg, said.append)
    assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint=str(file))
    assert cfg.model.backbone.norm_eval is True and said == []
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert keys.backbone.lr_mult == 0.1 and keys.x.decay_mult == 0.0


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pretrained='no.pth' does not exist"):
        apply_pretrained(config(tmp_path, pretrained="no.pth"))


def test_wrong_type(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="None or the path"):
        apply_pretrained(config(tmp_path, pretrained=3))


def test_other_configs_and_resumed_runs_are_silent(tmp_path: Path) -> None:
    said: list[str] = []
    apply_pretrained(config(tmp_path), said.append)
    apply_pretrained(config(tmp_path, pretrained=None, load_from="x.pth"), said.append)
    assert said == []
    # Auto-resume without a checkpoint is a new run, so the sentence is due.
    apply_pretrained(config(tmp_path, pretrained=None, resume=True), said.append)
    assert len(said) == 1
    (tmp_path / "work").mkdir()
    (tmp_path / "work/last_checkpoint").write_text("epoch_1.pth")
    apply_pretrained(config(tmp_path, pretrained=None, resume=True), said.append)
    assert len(said) == 1


def test_a_resumed_run_does_not_need_the_file(tmp_path: Path) -> None:
    cfg = config(tmp_path, pretrained="gone.pth", resume=True, load_from="epoch_3.pth")
    apply_pretrained(cfg)
    assert "init_cfg" not in cfg.model.backbone
    assert cfg.model.backbone.norm_eval is True
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
