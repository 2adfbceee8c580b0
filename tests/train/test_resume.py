"""k steps, a stop and k steps equal 2k steps, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")

from exact_run import NoisyNumbers, add_validation, config, train

from mmdet_mobileformer.train.resume import use_exact_resume

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def equal(a: Any, b: Any) -> bool:
    """The same, bit for bit, through dicts and lists; HistoryBuffers and such are not looked into."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return set(a) == set(b) and all(equal(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def final_state(runner: Any) -> dict[str, Any]:
    """The last checkpoint of a run, as far as it must agree, and the generators."""
    file = (Path(runner.work_dir) / "last_checkpoint").read_text()
    checkpoint = torch.load(file, weights_only=True)
    parts = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "exact_resume")
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    generators = [version, words, gauss, name, list(keys), *rest, torch.get_rng_state()]
    best = checkpoint["message_hub"]["runtime_info"].get("best_score")
    return {**{part: checkpoint.get(part) for part in parts}, "rng": generators, "best": best}


def compare(folder: Path, stops: list[int], in_validation: bool = False, **kwargs: Any) -> None:
    """A run in one go against one that is stopped again and again."""
    validate = kwargs.pop("validate", False)

    def cfg(name: str) -> Any:
        made = config(folder / name, **kwargs)
        return add_validation(made) if validate else made

    whole, seen = train(cfg("whole"))
    expected = final_state(whole)
    parts: list[list[float]] = []
    for number, stop in enumerate([*stops, None]):
        runner, part = train(cfg("parts"), stop, number > 0, in_validation)
        parts += part
    # Checkpoints by epoch lose the batches since the last one, which are then trained again.
    assert seen[-len(part) :] == part and (validate or parts == seen)
    found = final_state(runner)
    for key, value in expected.items():
        assert equal(found[key], value), key


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
@pytest.mark.parametrize("stops", [[3, 11], [5], [7, 8]], ids=str)
def test_stopped_and_resumed(by_epoch: bool, stops: list[int], tmp_path: Path) -> None:
    compare(tmp_path, stops, by_epoch=by_epoch)


@pytest.mark.slow
@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_with_workers(by_epoch: bool, tmp_path: Path) -> None:
    compare(tmp_path, [8], by_epoch=by_epoch, workers=2)


@pytest.mark.slow
def test_a_batch_sampler_of_mmdet(tmp_path: Path) -> None:
    compare(
        tmp_path, [3, 7], **{"train_dataloader.batch_sampler": dict(type="mmdet.AspectRatioBatchSampler")}
    )


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
@pytest.mark.parametrize("stop", [7, 8, 9], ids=str)
def test_while_gradients_are_accumulated(by_epoch: bool, stop: int, tmp_path: Path) -> None:
    compare(tmp_path, [stop], by_epoch=by_epoch, **{"optim_wrapper.accumulative_counts": 3})


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
@pytest.mark.parametrize("in_validation", [True, False], ids=["in validation", "after"])
def test_validation_that_was_due(by_epoch: bool, in_validation: bool, tmp_path: Path) -> None:
    """Schedulers that react to the metric, the best score and the patience go on as well."""
    stop = 10 if in_validation else 11
    compare(tmp_path, [stop], in_validation, by_epoch=by_epoch, validate=True)


def test_without_a_seed_the_order_goes_on(tmp_path: Path) -> None:
    """mmengine draws a seed and, resuming, builds the data loader before it reads that seed."""
    cfg = config(tmp_path / "work", randomness=dict(_delete_=True, seed=None))
    _, first = train(cfg, stop=3)
    _, rest = train(
        config(tmp_path / "work", randomness=dict(_delete_=True, seed=None)), None, True
    )
    indices = [
        round(x[0] * 10) for x in (np.reshape(batch, (-1, 4)) for batch in first + rest) for x in x
    ]
    assert [sorted(indices[start : start + 10]) for start in (0, 10, 20)] == [list(range(10))] * 3


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_the_number_of_workers_changes_nothing(by_epoch: bool, tmp_path: Path) -> None:
    runs = [train(config(tmp_path / str(n), by_epoch, workers=n)) for n in (0, 2)]
    assert runs[0][1] == runs[1][1]
    states = [final_state(runner)["state_dict"] for runner, _ in runs]
    assert equal(*states)


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_no_augmentation_comes_twice(by_epoch: bool, tmp_path: Path) -> None:
    _, seen = train(config(tmp_path / "work", by_epoch, workers=2))
    samples = np.concatenate([np.reshape(batch, (-1, 4)) for batch in seen])
    assert len(samples) == 30 and len(np.unique(samples[:, 1:], axis=0)) == 30


def test_what_was_seen_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config(tmp_path / "work", by_epoch=False), stop=14)
    loaded = []
    original = NoisyNumbers.__getitem__

    def count(self: NoisyNumbers, index: int) -> Any:
        loaded.append(index)
        return original(self, index)

    monkeypatch.setattr(NoisyNumbers, "__getitem__", count)
    train(config(tmp_path / "work", by_epoch=False), resume=True)
    assert len(loaded) == 2


def test_other_data_start_the_epoch_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(tmp_path / "work"), stop=7)
    cfg = config(tmp_path / "work", **{"train_dataloader.batch_size": 5}, log_level="WARNING")
    runner, seen = train(cfg, resume=True)
    assert [len(batch) for batch in seen] == [20] * 4, "epochs two and three, two batches each"
    text = capsys.readouterr()
    assert "batch size 5 instead of 2" in text.out + text.err
    assert "epoch 2 starts anew" in text.out + text.err


def test_a_checkpoint_of_mmengine_starts_its_epoch(tmp_path: Path) -> None:
    train(config(tmp_path / "work"), stop=7)
    file = tmp_path / "work" / "iter_7.pth"
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["exact_resume"]
    torch.save(checkpoint, file)
    assert len(train(config(tmp_path / "work"), resume=True)[1]) == 10


def test_an_empty_data_set_is_one_sentence(tmp_path: Path) -> None:
    for by_epoch in (True, False):
        cfg = config(tmp_path / "work", by_epoch, **{"train_dataloader.dataset.size": 0})
        with pytest.raises(ValueError, match=r"gives no batch \(0 images\)"):
            train(cfg)


def test_what_cannot_resume_exactly_is_named() -> None:
    inner = dict(type="CocoDataset", pipeline=[dict(type="mmdet.CachedMosaic")])
    cfg: dict[str, Any] = dict(
        train_cfg=dict(type="TeacherLoop"),
        train_dataloader=dict(dataset=dict(type="RepeatDataset", dataset=inner)),
        custom_hooks=[dict(type="PipelineSwitchHook", switch_pipeline=[dict(type="CachedMixUp")])],
    )
    reasons = use_exact_resume(cfg)
    assert [reason.split()[0] for reason in reasons] == ["the", "CachedMixUp", "CachedMosaic"]
    assert cfg["train_cfg"] == dict(type="TeacherLoop") and len(cfg["custom_hooks"]) == 1
    cfg = dict(train_cfg=dict(by_epoch=False, max_iters=3), train_dataloader=dict())
    assert use_exact_resume(cfg) == []
    assert cfg["train_cfg"]["type"] == "ExactIterLoop"
    assert use_exact_resume(cfg) == [] and len(cfg["custom_hooks"]) == 1
