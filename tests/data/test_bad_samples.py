"""Bad pictures and boxes while training: left out by name, counted, never replaced unseen."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner

pytest.importorskip("mmdet.datasets")

import small_set  # noqa: E402
from small_set import change, config, cut, data_set, make_set  # noqa: E402

from mmdet_mobileformer.data import bad_samples  # noqa: E402
from mmdet_mobileformer.data.bad_samples import (  # noqa: E402
    KEY,
    BadSampleError,
    GuardedPipeline,
    SkipBadSamples,
    Skipped,
    collate_and_report,
)
from mmdet_mobileformer.data.bad_samples_hook import skip_bad_samples  # noqa: E402


@TRANSFORMS.register_module(force=True)
class Refuse:
    """Returns None for a picture until it was asked `times` times."""

    def __init__(self, file: str, times: int = 10**6) -> None:
        self.file, self.times = file, times

    def __call__(self, data: dict[str, Any]) -> Any:
        if data["img_path"].endswith(self.file) and self.times > 0:
            self.times -= 1
            return None
        return data


@TRANSFORMS.register_module(force=True)
class Fail:
    """Raises for a picture."""

    def __init__(self, file: str = "", error: str = "ValueError", code: int = 0) -> None:
        self.file, self.error = file, ValueError("odd\nmore") if not code else OSError(code, "no")

    def __call__(self, data: dict[str, Any]) -> Any:
        if data["img_path"].endswith(self.file):
            raise self.error
        return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "data")


@pytest.fixture
def run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, str]]:
    """Train on the small set; returns the toy model and the log."""
    # Both take longer than the training: one asks for compilers, the other formats the config.
    monkeypatch.setattr(Runner, "_log_env", lambda *_: None)
    monkeypatch.setattr(Config, "pretty_text", property(lambda self: ""))

    def train(strict: bool = False, edit: Any = None, **kwargs: Any) -> tuple[Any, str]:
        work_dir = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
        cfg = config(root, work_dir, **kwargs)
        if edit:
            edit(cfg)
        skip_bad_samples(cfg, strict)
        runner = Runner.from_cfg(cfg)
        try:
            runner.train()
        finally:
            log = "\n".join(file.read_text() for file in work_dir.rglob("*.log"))
        return runner.model, log

    return train


def insert(cfg: Config, transform: dict[str, Any], at: int = 2) -> None:
    cfg.train_dataloader.dataset.pipeline.insert(at, transform)


def lines(log: str, part: str) -> list[str]:
    return [line for line in log.splitlines() if part in line]


def test_good_data_are_untouched(run: Callable[..., Any], root: Path) -> None:
    model, log = run()
    names = [[f"{n:03d}.jpg", f"{n + 1:03d}.jpg"] for n in (1, 3, 5, 7)]
    assert model.seen == names * 2
    assert "bad sample" not in log


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_picture_is_left_out(run: Callable[..., Any], root: Path, workers: int) -> None:
    cut(root / "train/003.jpg")
    model, log = run(edit=lambda cfg: cfg.train_dataloader.update(num_workers=workers))
    epoch = [["001.jpg", "002.jpg"], ["004.jpg"], ["005.jpg", "006.jpg"], ["007.jpg", "008.jpg"]]
    assert model.seen == epoch * 2, "left out, and nothing in its place"
    # Reported once with its name over two epochs, and counted in each.
    assert len(lines(log, "003.jpg")) == 1
    assert "is truncated" in lines(log, "003.jpg")[0]
    for number in (1, 2):
        assert lines(log, f"bad samples in epoch {number}: samples left out: 1")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), "does not exist"),
        (lambda file: file.write_bytes(b""), "is empty (0 bytes)"),
        (lambda file: file.write_bytes(b"no picture at all" * 9), "fails"),
        (lambda file: file.write_bytes(b"\xff\xd8" + b"no picture" * 9), "is no picture"),
    ],
)
def test_reasons(
    run: Callable[..., Any], root: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    damage(root / "train/008.jpg")
    model, log = run()
    assert model.seen[3] == ["007.jpg"]
    assert reason in lines(log, "008.jpg")[0]


def test_strict_stops_with_one_sentence(run: Callable[..., Any], root: Path) -> None:
    cut(root / "train/005.jpg")
    with pytest.raises(ValueError, match=r"005.jpg: is truncated.*--strict-data") as error:
        run(strict=True)
    assert "\n" not in str(error.value)


def test_an_empty_batch_takes_the_next_picture(run: Callable[..., Any], root: Path) -> None:
    for number in (3, 4, 5):
        cut(root / f"train/00{number}.jpg")
    model, log = run()
    # Samples 3 and 4 make a batch; 5 is bad too, so 6 fills it, and comes again in its own batch.
    assert model.seen[:3] == [["001.jpg", "002.jpg"], ["006.jpg"], ["006.jpg"]]
    summary = lines(log, "bad samples in epoch 1")[0]
    assert "empty batches filled: 1" in summary
    assert len(lines(log, "stands in for the picture of a batch that had no other")) == 1


def test_nothing_can_be_read(run: Callable[..., Any], root: Path) -> None:
    for file in (root / "train").iterdir():
        cut(file)
    with pytest.raises(ValueError, match="nothing can be trained on"):
        run()


def test_more_than_half_is_too_much(run: Callable[..., Any], root: Path) -> None:
    for number in (1, 3, 5, 7, 8):
        cut(root / f"train/00{number}.jpg")
    with pytest.raises(ValueError, match="of 8 samples of the epoch could not be used"):
        run()


def test_a_box_that_is_not_finite_is_left_out(run: Callable[..., Any], root: Path) -> None:
    file = root / "annotations/instances_train.json"
    boxes = json.loads(file.read_text())["annotations"]
    boxes.append({**boxes[1], "id": 50, "bbox": [1, 1, float("inf"), 5]})
    boxes.append({**boxes[1], "id": 51, "bbox": [1, 1, 1e9, 5]})
    change(file, annotations=boxes)
    model, log = run()
    assert model.boxes[:4] == [1, 1, 1, 1], "the good box of the picture stays"
    assert len(lines(log, "the box with corners [1, 1, inf, 6]")) == 1
    assert lines(log, "bad samples in epoch 2: boxes left out: 2")
    with pytest.raises(ValueError, match=r"002.jpg: the box with corners"):
        run(strict=True)


def test_a_rejected_crop_is_tried_again(run: Callable[..., Any]) -> None:
    model, log = run(edit=lambda cfg: insert(cfg, dict(type="Refuse", file="002.jpg", times=9)))
    assert model.seen[0] == ["001.jpg", "002.jpg"] and "bad sample" not in log


def test_what_the_pipeline_always_rejects(run: Callable[..., Any]) -> None:
    model, log = run(True, lambda cfg: insert(cfg, dict(type="Refuse", file="002.jpg")))
    assert model.seen[0] == ["001.jpg"], "not a random other one, and no reason to stop"
    assert "the pipeline gave nothing in 10 attempts" in lines(log, "002.jpg")[0]
    assert lines(log, "left out because the pipeline gave nothing: 1")


def test_a_transform_that_fails_names_the_picture(run: Callable[..., Any]) -> None:
    model, log = run(edit=lambda cfg: insert(cfg, dict(type="Fail", file="006.jpg")))
    assert model.seen[2] == ["005.jpg"]
    assert "006.jpg: Fail fails (ValueError: odd)" in lines(log, "006.jpg")[0]


def test_a_wrong_pipeline_stops_at_once(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"Fail fails \(ValueError: odd\).*nothing can be trained"):
        run(edit=lambda cfg: insert(cfg, dict(type="Fail")))


def test_errors_of_the_machine_are_not_the_pictures(run: Callable[..., Any]) -> None:
    code = errno.EMFILE
    with pytest.raises(OSError, match="Errno"):
        run(edit=lambda cfg: insert(cfg, dict(type="Fail", file="006.jpg", code=code)))


def test_ignore_empty_is_no_random_substitute(run: Callable[..., Any], root: Path) -> None:
    (root / "train/002.jpg").write_bytes(b"GIF8" + b"\x3b" * 30)  # seems whole, is no picture

    def edit(cfg: Config) -> None:
        cfg.train_dataloader.dataset.pipeline[0].ignore_empty = True

    model, log = run(edit=edit)
    assert model.seen[0] == ["001.jpg"] and lines(log, "002.jpg")


def test_by_iterations(run: Callable[..., Any], root: Path) -> None:
    cut(root / "train/001.jpg")

    def edit(cfg: Config) -> None:
        cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=8, val_interval=4)
        cfg.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=False)

    model, log = run(edit=edit)
    assert lines(log, "bad samples in the iterations up to 4: samples left out: 1")
    assert lines(log, "bad samples in the iterations up to 8: samples left out: 1")


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_stops_with_the_name(run: Callable[..., Any], root: Path, workers: int) -> None:
    for number in (101, 102):
        cut(root / f"val/{number}.jpg")

    def edit(cfg: Config) -> None:
        cfg.train_cfg.val_begin = 1
        cfg.val_dataloader.num_workers = workers

    with pytest.raises(ValueError, match=r"val/101.jpg: is truncated.*would not compare") as error:
        run(edit=edit)
    assert "\n" not in str(error.value)


def test_the_test_loop_stops_too(root: Path, tmp_path: Path) -> None:
    cut(root / "val/103.jpg")
    cfg = config(root, tmp_path / "work")
    for name in ("dataloader", "evaluator", "cfg"):
        cfg[f"test_{name}"] = cfg[f"val_{name}"]
    cfg.test_cfg = dict(type="TestLoop")
    skip_bad_samples(cfg)
    assert cfg.test_dataloader == cfg.val_dataloader, "DetInferencer reads its pipeline"
    with pytest.raises(ValueError, match=r"val/103.jpg: is truncated"):
        Runner.from_cfg(cfg).test()


def built(root: Path, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> SkipBadSamples:
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules

    register_all_modules()
    return SkipBadSamples(DATASETS.build(wrap(data_set(root, "train"))))


WRAPPERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "plain": lambda inner: inner,
    "repeat": lambda inner: dict(type="RepeatDataset", times=2, dataset=inner),
    "concat": lambda inner: dict(type="ConcatDataset", datasets=[inner, inner]),
    "balanced": lambda inner: dict(type="ClassBalancedDataset", oversample_thr=1e-3, dataset=inner),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_nested_data_sets(root: Path, name: str) -> None:
    cut(root / "train/002.jpg")
    dataset = built(root, WRAPPERS[name])
    assert isinstance(dataset[1], Skipped) and not isinstance(dataset[0], Skipped)
    batch = collate_and_report([dataset[0], dataset[1]])
    assert len(batch["inputs"]) == 1
    assert [report.kind for report in batch[KEY]][-1] == "picture"
    assert dataset.metainfo["classes"] == small_set.CATEGORIES
    assert dataset.get_data_info(1)["img_path"].endswith("002.jpg")
    again = pickle.loads(pickle.dumps(dataset))
    assert isinstance(again[1], Skipped) and len(again) == len(dataset)


def test_mosaic_takes_other_partners(root: Path) -> None:
    cut(root / "train/002.jpg")
    mosaic = [
        dict(type="Mosaic", img_scale=(HEIGHT_WIDTH), prob=1.0),
        dict(type="PackDetInputs", meta_keys=("img_path",)),
    ]

    def wrap(inner: dict[str, Any]) -> dict[str, Any]:
        inner["pipeline"] = inner["pipeline"][:2]
        return dict(type="MultiImageMixDataset", dataset=inner, pipeline=mosaic)

    dataset = built(root, wrap)
    assert isinstance(dataset[1], Skipped), "its own picture is bad"
    samples = [dataset[index] for index in (0, 2, 3, 4, 5, 6, 7) for _ in range(3)]
    skipped = sum(isinstance(sample, Skipped) for sample in samples)
    assert skipped == 0, "a bad partner is replaced by another partner, as random as the first"
    batch = collate_and_report([dataset[1], *samples])
    assert {Path(report.file).name for report in batch[KEY]} == {"002.jpg"}


HEIGHT_WIDTH = (small_set.WIDTH, small_set.HEIGHT)


def test_switching_the_pipeline_keeps_the_guard(root: Path) -> None:
    cut(root / "train/002.jpg")
    dataset = built(root, WRAPPERS["plain"])
    dataset.pipeline = Compose(dataset.pipeline.transforms[:1])  # what PipelineSwitchHook does
    assert isinstance(dataset.dataset.pipeline, GuardedPipeline)
    assert set(dataset[0]) >= {"img", "img_path"} and "inputs" not in dataset[0]
    assert isinstance(dataset[1], Skipped)


def test_the_guard_names_the_reason(root: Path) -> None:
    cut(root / "train/002.jpg")
    dataset = built(root, WRAPPERS["plain"])
    with pytest.raises(BadSampleError, match=r"002.jpg: is truncated or damaged"):
        dataset.dataset[1]


def test_calling_twice_changes_only_strict(root: Path, tmp_path: Path) -> None:
    cfg = config(root, tmp_path)
    cfg.train_dataloader.collate_fn = dict(type="default_collate")
    skip_bad_samples(cfg)
    once = cfg.copy()
    skip_bad_samples(cfg, strict=True)
    assert cfg.train_dataloader == once.train_dataloader
    assert cfg.train_dataloader.collate_fn.inner.type == "default_collate"
    assert cfg.custom_hooks == [dict(type="BadSamplesHook", strict=True, not_loaded=0)]


def test_reports_do_not_pile_up(root: Path) -> None:
    cut(root / "train/002.jpg")
    dataset = built(root, WRAPPERS["plain"])
    for _ in range(3):
        collate_and_report([dataset[0], dataset[1]])
    assert not bad_samples._found
