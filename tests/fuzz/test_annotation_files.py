"""Any annotation file works, is trained on without what is wrong in it, or gives one sentence."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import fuzz, sizes, works_or_says_why
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from tiny_run import make_data

from mmdet_mobileformer.train import build

NUMBERS = st.one_of(
    st.integers(-5, 80),
    st.floats(-10, 90),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e9, 1e300, -1, 0, 10**30]),
)
#: What stands where another type is expected.
WRONG = st.one_of(
    NUMBERS, st.none(), st.text(max_size=3), st.booleans(), st.just([]), st.just({}), st.just([[]])
)


def mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 39).flatmap(lambda roll: WRONG if roll == 0 else right)


def entries(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Dicts of which a field may be missing or of another type; seldom no dict at all."""
    optional = {key: mostly(value) for key, value in fields.items()}
    complete = st.fixed_dictionaries(optional)
    partial = st.fixed_dictionaries({}, optional=optional)
    return st.integers(0, 39).flatmap(
        lambda roll: WRONG if roll == 0 else partial if roll == 1 else complete
    )


IDS = st.integers(0, 6)
IMAGES = entries(
    dict(
        id=IDS,
        file_name=st.sampled_from(["1.png", "2.png", "3.png", "no.png", "", "../val/1.png"]),
        width=st.sampled_from([64] * 9 + [0, -3, 32, 1e5]),
        height=st.sampled_from([64] * 9 + [1, 2.5]),
    )
)
GOOD_BOX = st.tuples(*[st.floats(0, 30)] * 2, *[st.floats(2, 30)] * 2).map(list)
FOUR = st.lists(NUMBERS, min_size=4, max_size=4)
BOXES = st.integers(0, 9).flatmap(
    lambda roll: st.lists(NUMBERS, max_size=6) if roll == 0 else FOUR if roll < 5 else GOOD_BOX
)
ANNOTATIONS = entries(
    dict(
        id=st.integers(0, 30),
        image_id=IDS,
        category_id=st.sampled_from([1, 1, 2, 2, 0, 3, 99]),
        bbox=BOXES,
        area=NUMBERS,
        iscrowd=st.sampled_from([0, 0, 1]),
    )
)
CATEGORIES = entries(
    dict(id=st.sampled_from([1, 2, 2, 3]), name=st.sampled_from(["box", "disc", "", "x"]))
)
RIGHT = st.just([dict(id=1, name="box"), dict(id=2, name="disc")])
FILES = st.one_of(
    st.fixed_dictionaries(
        dict(
            images=mostly(st.lists(IMAGES, max_size=4)),
            annotations=mostly(st.lists(ANNOTATIONS, max_size=5)),
            categories=mostly(RIGHT | st.lists(CATEGORIES, max_size=3)),
        )
    ),
    # Right but for the boxes, so that training comes to them.
    st.tuples(GOOD_BOX, st.lists(FOUR, max_size=3)).map(
        lambda pair: dict(
            images=[dict(id=1, file_name="1.png", width=64, height=64)],
            annotations=[
                dict(id=n, image_id=1, category_id=1, bbox=box, area=10, iscrowd=0)
                for n, box in enumerate([pair[0], *pair[1]])
            ],
            categories=[dict(id=1, name="box"), dict(id=2, name="disc")],
        )
    ),
    WRONG,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("annotations") / "data")


@sizes(30, 200)
@pytest.mark.parametrize("skip_doctor", [False, True], ids=["doctor", "no doctor"])
def test_annotation_files(
    skip_doctor: bool,
    cases: int,
    data: Path,
    tiny: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the command line to the batches, each box of which is one that can be trained on."""
    monkeypatch.chdir(tmp_path)
    file = data / "annotations" / "instances_train.json"
    arguments = dict(config=str(tiny[0]), data_root=str(data), work_dir=str(tmp_path / "work"))
    arguments.update(amp=False, auto_scale_lr=False, resume=None, cfg_options=None, launcher="none")
    arguments.update(skip_doctor=skip_doctor)
    init_default_scope("mmdet")
    worked = []

    def load() -> None:
        cfg = build.train_config(Namespace(**arguments))
        loader = Runner.build_dataloader(cfg.train_dataloader)
        batches = list(loader)
        for batch in batches:
            for sample in batch.get("data_samples", []):
                boxes, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
                assert torch.isfinite(boxes.tensor).all() and len(boxes) == len(labels)
                assert ((labels >= 0) & (labels < 2)).all()

    def check(content: Any) -> None:
        file.write_text(json.dumps(content))
        worked.append(works_or_says_why(load))
        capsys.readouterr()

    fuzz(cases, FILES, check)
    assert any(worked) and not all(worked)


@sizes(20, 100)
def test_files_that_are_no_json(
    cases: int,
    data: Path,
    tiny: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Cut off, with other bytes in between, or something else altogether."""
    monkeypatch.chdir(tmp_path)
    file = data / "annotations" / "instances_train.json"
    right = (data / "annotations" / "instances_val.json").read_bytes()
    arguments = dict(config=str(tiny[0]), data_root=str(data), work_dir=str(tmp_path / "work"))
    arguments.update(amp=False, auto_scale_lr=False, resume=None, cfg_options=None, launcher="none")

    def load() -> None:
        cfg = build.train_config(Namespace(**arguments))
        list(Runner.build_dataloader(cfg.train_dataloader))

    init_default_scope("mmdet")

    def check(change: tuple[int, bytes, bool]) -> None:
        position, inserted, cut = change
        position %= len(right) + 1
        tail = b"" if cut else right[position + len(inserted) :]
        file.write_bytes(right[:position] + inserted + tail)
        works_or_says_why(load)
        capsys.readouterr()

    fuzz(cases, st.tuples(st.integers(0, 5000), st.binary(max_size=8), st.booleans()), check)
