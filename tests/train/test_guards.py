"""What every training gets: resuming is checked before long work, weights must fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

pytest.importorskip("mmdet.models")

from mmdet_mobileformer.train import guards

HUB = dict(log_scalars={}, runtime_info={}, resumed_keys={})
STATE: dict[str, Any] = dict(
    meta=dict(epoch=1, iter=2, seed=5),
    message_hub=HUB,
    optimizer={},
    state_dict={"fc.weight": torch.ones(2, 3)},
)


class FakeRunner:
    """A Runner as far as the checks look at it."""

    def __init__(self, model: nn.Module, file: Path | None = None, resume: bool = False) -> None:
        self.model, self._load_from, self._resume = model, file and str(file), resume


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(dict(state_dict={"module.fc.weight": torch.ones(2, 3)}), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def linear(*sizes: int, bias: bool = False) -> nn.Module:
    return nn.ModuleDict(dict(fc=nn.Linear(*sizes, bias=bias)))


def test_weights_must_fit(weights: Path) -> None:
    guards.check_fit(FakeRunner(linear(3, 2)), str(weights))
    wrapped = nn.ModuleDict(dict(module=linear(3, 2)))
    guards.check_fit(FakeRunner(wrapped), str(weights))
    for other in (linear(3, 2, bias=True), linear(4, 2)):
        with pytest.raises(
            ValueError, match="does not fit the config's model: 1 weights.*fc.(w|b)"
        ):
            guards.check_fit(FakeRunner(other), str(weights))


def test_a_start_needs_one_weight_and_a_resumed_run_all(weights: Path) -> None:
    partly = linear(3, 2, bias=True)
    guards.check_start(FakeRunner(partly))
    guards.check_start(FakeRunner(partly, weights))
    with pytest.raises(ValueError, match="does not fit"):
        guards.check_start(FakeRunner(partly, weights, resume=True))
    with pytest.raises(ValueError, match="does not fit"):
        guards.check_start(FakeRunner(linear(9, 9), weights))


def resume(folder: Path, flag: str | None = "auto", **changes: Any) -> Config:
    cfg = Config(dict(work_dir=str(folder), load_from=None, resume=False, **changes))
    guards.set_resume(cfg, flag)
    return cfg


def test_resume_takes_the_latest_and_its_seed(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "epoch_1.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    cfg = resume(tmp_path)
    assert cfg.load_from == str(tmp_path / "epoch_1.pth") and cfg.resume is True
    assert cfg.randomness == dict(seed=5)
    assert resume(tmp_path, randomness=dict(seed=1, deterministic=True)).randomness == dict(
        seed=5, deterministic=True
    )
    # In the config instead of on the command line.
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    guards.set_resume(cfg, None)
    assert cfg.load_from == str(tmp_path / "epoch_1.pth")


def test_a_work_dir_that_was_moved(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "epoch_1.pth")
    (tmp_path / "last_checkpoint").write_text("/gone/work/epoch_1.pth")
    assert resume(tmp_path).load_from == str(tmp_path / "epoch_1.pth")


def test_nothing_to_resume(tmp_path: Path, weights: Path) -> None:
    cfg = resume(tmp_path)
    assert cfg.resume is True and cfg.load_from is None
    # A first start with --resume keeps the weights that the config starts from.
    cfg = Config(dict(work_dir=str(tmp_path / "new"), load_from=str(weights)))
    guards.set_resume(cfg, "auto")
    assert cfg.load_from == str(weights) and cfg.resume is False


def test_notes_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("")
    with pytest.raises(ValueError, match="last_checkpoint is empty.*--resume FILE"):
        resume(tmp_path)
    (tmp_path / "last_checkpoint").write_text("/gone/epoch_1.pth")
    with pytest.raises(FileNotFoundError, match="/gone/epoch_1.pth does not exist"):
        resume(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(optimizer=None), "optimizer"),
        (dict(meta=dict(epoch=1)), "meta.iter"),
        (dict(meta=dict(epoch="1", iter=2)), "meta.epoch"),
        (dict(message_hub=dict(HUB, log_scalars=[])), "message_hub.log_scalars"),
        (dict(message_hub=3, meta=None), "meta, message_hub"),
    ],
    ids=str,
)
def test_what_cannot_be_resumed(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    torch.save(STATE | changes, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"no state of a training \\({named} missing") as error:
        resume(tmp_path, str(tmp_path / "a.pth"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{}, [], 3, {"state_dict": 1}, {"a": {"b": 2}}], ids=str)
def test_files_without_weights(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        guards.check_checkpoint(str(tmp_path / "a.pth"))


def test_weights_of_the_internet_need_a_hash() -> None:
    with pytest.raises(ValueError, match="states no hash"):
        guards.check_checkpoint("https://example.com/weights.pth")
    nested = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="http://x.org/a.pth")))
    with pytest.raises(ValueError, match="init_cfg's checkpoint http://x.org/a.pth states no hash"):
        guards.check_init_files(dict(model=nested))
    nested["backbone"]["init_cfg"]["checkpoint"] = "torchvision://resnet50"
    guards.check_init_files(dict(model=nested))


def test_guards_are_added_once_and_reach_custom_hooks() -> None:
    saver = dict(type="CheckpointHook", interval=3, by_epoch=False)
    assigner = dict(type="mmdet.HungarianAssigner", match_costs=[])
    cfg = Config(
        dict(
            model=dict(train_cfg=dict(assigner=assigner)),
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=1),
            train_dataloader=dict(dataset=dict(type="CocoDataset")),
            custom_hooks=[dict(type="EMAHook"), saver],
        )
    )
    for _ in range(2):
        assert guards.add_guards(cfg) == []
    assert cfg.train_cfg.type == "ExactEpochLoop"
    assert cfg.default_hooks.checkpoint == dict(type="AtomicCheckpointHook", interval=1)
    assert [hook.type for hook in cfg.custom_hooks] == [
        "EMAHook",
        "AtomicCheckpointHook",
        "ExactResumeHook",
        "StopAtNonFiniteHook",
    ]
    assert cfg.model.train_cfg.assigner.type == "FiniteHungarianAssigner"
    cfg.train_dataloader.dataset.pipeline = [dict(type="CachedMosaic")]
    assert ["CachedMosaic mixes in" in sentence for sentence in guards.add_guards(cfg)] == [True]
