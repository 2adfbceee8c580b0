"""Pictures of any size, shape and kind are trained and tested on, left out by name, or refused."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import fuzz, sizes, works_or_says_why
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from tiny_run import CONFIG

from mmdet_mobileformer.data.bad_samples import KEY
from mmdet_mobileformer.data.bad_samples_hook import BadSamplesHook
from mmdet_mobileformer.train import build
from mmdet_mobileformer.train.assign import use_finite_assigner

#: 1 to 4,000 px, each decade alike.
SIDE = st.floats(0, 3.602).map(lambda power: min(4000, int(10**power)))
MODES = ["RGB", "RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "F"]
ENDINGS = ["png", "jpg", "bmp", "webp", "tif", "gif"]
CONTENTS = ["noise", "black", "white", "stripes"]


def model() -> Any:
    init_default_scope("mmdet")
    torch.manual_seed(0)
    cfg = Config.fromstring(CONFIG, ".py").model
    use_finite_assigner(cfg)
    return MODELS.build(cfg)


def pixels(width: int, height: int, content: str) -> np.ndarray:
    if content == "noise":
        small = np.random.default_rng(0).integers(0, 256, (min(height, 300), min(width, 300), 3))
        return np.resize(small.astype(np.uint8), (height, width, 3))
    value = {"black": 0, "white": 255}.get(content)
    if value is not None:
        return np.full((height, width, 3), value, np.uint8)
    return np.broadcast_to(
        (np.arange(width) % 2 * 255).astype(np.uint8)[:, None], (height, width, 3)
    )


def write_set(data: Path, case: dict[str, Any]) -> bool:
    """One picture, whole or cut off, as training and validation set; False if PIL cannot write it."""
    width, height = case["width"], case["height"]
    height = min(height, max(1, 3_000_000 // width))
    array = pixels(width, height, case["content"])
    image = Image.fromarray(array if case["mode"] not in ("I;16", "F") else array[..., 0].copy())
    image = image.convert(case["mode"]) if image.mode != case["mode"] else image
    name = f"picture.{case['ending']}"
    for split in ("train", "val"):
        file = data / split / name
        try:
            image.save(file)
        except (OSError, ValueError, KeyError, SystemError):
            return False
        if case["keep"] < 1:
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * case["keep"])])
        x, y, w, h = case["box"]
        box = [x * width, y * height, max(w * width, 0.01), max(h * height, 0.01)]
        coco = dict(
            images=[dict(id=1, file_name=name, width=width, height=height)],
            annotations=[
                dict(id=1, image_id=1, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0)
            ],
            categories=[dict(id=1, name="box"), dict(id=2, name="disc")],
        )
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    return True


CASES = st.fixed_dictionaries(
    dict(
        width=SIDE,
        height=SIDE,
        content=st.sampled_from(CONTENTS),
        mode=st.sampled_from(MODES),
        ending=st.sampled_from(ENDINGS),
        keep=st.sampled_from([1.0] * 6 + [0.9, 0.5, 0.01, 0.0]),
        box=st.tuples(*[st.floats(-0.2, 1.2)] * 2, *[st.floats(0, 2)] * 2),
    )
)


@sizes(25, 100)
def test_pictures_through_the_whole_way(
    cases: int, tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file to finite losses, and to boxes inside the picture."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for folder in ("annotations", "train", "val"):
        (data / folder).mkdir(parents=True)
    arguments = dict(config=str(tiny[0]), data_root=str(data), work_dir=str(tmp_path / "work"))
    arguments.update(amp=False, auto_scale_lr=False, resume=None, cfg_options=None, launcher="none")
    detector = model()
    trained, tested = [], []

    def train() -> None:
        cfg = build.train_config(Namespace(**arguments, skip_doctor=True))
        for batch in Runner.build_dataloader(cfg.train_dataloader):
            if "inputs" not in batch:
                assert any("picture." in report.file for report in batch[KEY])
                continue
            trained.append(True)
            detector.train()
            losses = detector(**detector.data_preprocessor(batch, True), mode="loss")
            assert all(torch.isfinite(value) for value in losses.values())

    def test() -> None:
        cfg = build.train_config(Namespace(**arguments, skip_doctor=True))
        detector.eval()
        hook = BadSamplesHook()
        runner = Namespace(val_dataloader=Runner.build_dataloader(cfg.val_dataloader))
        hook.before_val(runner)
        for index, batch in enumerate(runner.val_dataloader):
            hook.before_val_iter(runner, index, batch)
            with torch.no_grad():
                (result,) = detector.test_step(batch)
            height, width = result.ori_shape[:2]
            boxes = result.pred_instances.bboxes
            assert torch.isfinite(boxes).all() and len(boxes) == 10 and boxes.min() >= 0
            # A side that becomes less than a pixel when it is resized is rounded up to one.
            assert boxes[:, ::2].max() <= width * 1.01 + 1e-3
            assert torch.isfinite(result.pred_instances.scores).all()
            tested.append(height)

    def check(case: dict[str, Any]) -> None:
        if write_set(data, case):
            works_or_says_why(train)
            works_or_says_why(test)

    fuzz(cases, CASES, check)
    assert len(trained) > cases / 10 and len(tested) > cases / 10


@sizes(20, 150)
def test_the_network_takes_any_size(cases: int) -> None:
    """Without resizing: 1 x 4,000 px, odd sizes, padding on either side."""
    detector = model()

    def check(case: tuple[int, int, int, int, bool]) -> None:
        width, height, right, below, training = case
        height = min(height, max(1, 60_000 // width))
        shape, padded = (height, width), (height + below, width + right)
        sample = DetDataSample(
            metainfo=dict(
                img_shape=shape, ori_shape=shape, batch_input_shape=padded, scale_factor=(1.0, 1.0)
            )
        )
        images = torch.randn(1, 3, *padded)
        detector.train(training)

        def work() -> None:
            with torch.no_grad():
                logits, boxes = detector(images, [sample], mode="tensor")
            assert logits.isfinite().all() and boxes.isfinite().all()

        worked = works_or_says_why(work)
        # BatchNorm alone needs more than one value, in training.
        assert worked or training

    sides = st.tuples(SIDE, SIDE, st.integers(0, 40), st.integers(0, 40), st.booleans())
    fuzz(cases, sides, check)
