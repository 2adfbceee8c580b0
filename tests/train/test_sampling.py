"""A sample's augmentation is a function of (seed, epoch, index), whatever was loaded before."""

from __future__ import annotations

import copy
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")

from mmdet.datasets.transforms import RandomFlip
from mmdet.utils import register_all_modules
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATASETS
from tiny_run import make_data

from mmdet_mobileformer.train import sampling
from mmdet_mobileformer.train.sampling import Draw, ResumableBatchSampler, SeededDataset


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    register_all_modules(init_default_scope=True)
    root = make_data(tmp_path_factory.mktemp("data"))
    return dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        metainfo=dict(classes=("box", "disc")),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
        ],
    )


#: Every random transform of mmdet that configs of detectors use, with each kind of generator.
MIXED = [
    dict(type="Mosaic", img_scale=(64, 64)),
    dict(type="RandomAffine", border=(-32, -32)),
    dict(type="MixUp", img_scale=(64, 64)),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="PhotoMetricDistortion"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoiceResize", scales=[(40, 40), (64, 64), (90, 90)], keep_ratio=True),
    dict(type="RandomCrop", crop_size=(0.6, 0.6), crop_type="relative_range"),
    dict(type="RandomErasing", n_patches=(1, 3), ratio=(0.1, 0.3)),
    dict(type="PackDetInputs", meta_keys=("img_id", "flip", "img_shape")),
]


def sample(dataset: Any, draw: Draw) -> tuple[np.ndarray, np.ndarray, Any]:
    result = dataset[draw]
    boxes = result["data_samples"].gt_instances.bboxes.numpy()
    return result["inputs"].numpy(), boxes, result["data_samples"].metainfo


def test_mixed_images_follow_from_the_draw(coco: dict[str, Any]) -> None:
    """The partners that MultiImageMixDataset picks as well; in any order, from any state."""
    cfg = dict(type="MultiImageMixDataset", dataset=coco, pipeline=MIXED)
    dataset = DATASETS.build(dict(type="SeededDataset", dataset=cfg))
    draws = [Draw(index, 3, epoch, 0) for epoch in range(3) for index in range(len(dataset))]
    first = [sample(dataset, draw) for draw in draws]
    assert len({pixels.tobytes() for pixels, _, _ in first}) == len(draws)
    again = pickle.loads(pickle.dumps(dataset))  # as a worker that is spawned gets it
    for draw, expected in reversed(list(zip(draws, first))):
        random.random(), np.random.rand(), torch.rand(1)
        pixels, boxes, meta = sample(again, draw)
        assert np.array_equal(pixels, expected[0]) and np.array_equal(boxes, expected[1])
        assert meta == expected[2]


def test_the_data_set_inside_is_in_reach(coco: dict[str, Any]) -> None:
    dataset = SeededDataset(copy.deepcopy(coco))
    assert len(dataset) == 4 and dataset.metainfo["classes"] == ("box", "disc")
    assert dataset[0]["img_id"] == 1 and dataset.get_data_info(0)["width"] == 64
    # As PipelineSwitchHook does.
    dataset.pipeline = RandomFlip(prob=1.0)
    assert dataset.dataset.pipeline is dataset.pipeline
    # torch would otherwise fetch whole batches past the seeding.
    assert not hasattr(dataset, "__getitems__")


def draws(sampler: Any, **start: Any) -> list[list[Draw]]:
    batches = ResumableBatchSampler(sampler, batch_size=2)
    batches.start(**{"seed": 9, **start})
    iterator = iter(batches)
    return [batch for _, batch in zip(range(12), iterator)]


def test_batches_start_in_the_middle() -> None:
    sampler = DefaultSampler(range(7), shuffle=True, seed=1)
    whole = draws(sampler, epoch=4)
    assert len(whole) == len(ResumableBatchSampler(sampler, 2)) == 4
    assert sorted(d.index for batch in whole for d in batch) == list(range(7))
    assert {(d.seed, d.epoch, d.repeat) for batch in whole for d in batch} == {(9, 4, 0)}
    assert draws(sampler, epoch=4, skip=3) == whole[3:]
    assert draws(sampler, epoch=4, skip=4) == []


def test_endless_batches_go_from_epoch_to_epoch() -> None:
    whole = draws(DefaultSampler(range(7), shuffle=True, seed=1), endless=True)
    assert [batch[0].epoch for batch in whole] == [0] * 4 + [1] * 4 + [2] * 4
    assert [d.index for d in whole[0]] != [d.index for d in whole[4]]
    later = draws(DefaultSampler(range(7), shuffle=True, seed=1), endless=True, skip=5)
    assert later[:7] == whole[5:]


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_endless_sampler_repeats_no_draw(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With InfiniteSampler an image comes to another process the next time."""
    everything: list[Draw] = []
    for rank in range(world_size):
        for module in ("mmengine.dataset.sampler", sampling.__name__):
            monkeypatch.setattr(f"{module}.get_dist_info", lambda rank=rank: (rank, world_size))
        sampler = InfiniteSampler(range(7), shuffle=True, seed=1)
        everything += [d for batch in draws(sampler, endless=True) for d in batch]
    assert len(everything) == 24 * world_size and len(set(everything)) == len(everything)
    assert max(d.epoch for d in everything) == (24 * world_size - 1) // 7
    assert {d.repeat for d in everything} == {0}


def test_an_index_that_comes_twice_in_an_epoch() -> None:
    class Twice(DefaultSampler):
        def __iter__(self) -> Any:
            return iter([3, 3, 1, 3])

    found = [(d.index, d.repeat) for batch in draws(Twice(range(4))) for d in batch]
    assert found == [(3, 0), (3, 1), (1, 0), (3, 2)]


def test_an_empty_sampler_does_not_hang() -> None:
    class Empty(DefaultSampler):
        def __iter__(self) -> Any:
            return iter([])

    with pytest.raises(ValueError, match="gives no batch"):
        draws(Empty(range(1)), endless=True)


def test_seeds_differ_in_every_part(tmp_path: Path) -> None:
    keys = [(1, 0, 0, 0, 0), (1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (1, 0, 0, 1, 0), (2, 0, 0, 0)]
    seen = set()
    for key in keys:
        sampling.seed_generators(*key)
        seen.add((random.random(), np.random.rand(), float(torch.rand(()))))
    assert len({numbers[0] for numbers in seen}) == len(keys)
    assert len({numbers[1] for numbers in seen}) == len({n[2] for n in seen}) == len(keys)
    sampling.seed_sample(Draw((2, 5), 0, 0, 0))  # of a video sampler
    first = random.random()
    sampling.seed_sample(Draw((2, 6), 0, 0, 0))
    assert random.random() != first


def test_states_of_the_generators_come_back() -> None:
    states = sampling.generator_states()
    first = (random.random(), np.random.rand(), float(torch.rand(())))
    sampling.restore_generators(states)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == first
