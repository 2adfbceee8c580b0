"""The page's resizing is OpenCV's, to the bit: run by Node.js, which is there where npm is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet_mobileformer.runtime")
from mmdet_mobileformer.deploy.web.site import PAGE  # noqa: E402
from mmdet_mobileformer.runtime.metadata import ModelInfo  # noqa: E402
from mmdet_mobileformer.runtime.picture import input_size  # noqa: E402

NODE = shutil.which("node")
#: Source and target (width, height): larger, smaller, halved, one side kept, odd ones, much smaller.
SIZES = (
    ((37, 23), (64, 40)),
    ((129, 97), (64, 48)),
    ((64, 48), (32, 24)),
    ((61, 40), (61, 33)),
    ((50, 50), (50, 50)),
    ((200, 133), (45, 37)),
    ((33, 33), (97, 41)),
    ((64, 50), (32, 33)),
)
PROGRAM = """
import { readFileSync, writeFileSync } from "node:fs";
import { inputSize, resizeToPlanes } from "./resize.mjs";
const job = JSON.parse(readFileSync("job.json"));
const data = new Uint8ClampedArray(readFileSync("pixels.bin"));
let at = 0;
const parts = job.resize.map(([[width, height], [w, h]]) => {
  const picture = { data: data.subarray(at, (at += 4 * width * height)), width, height };
  return Buffer.from(Uint8Array.from(resizeToPlanes(picture, w, h)));
});
writeFileSync("planes.bin", Buffer.concat(parts));
const sizes = job.rule.map(([width, height, about]) => {
  try { return inputSize(width, height, about); } catch (error) { return error.message; }
});
writeFileSync("sizes.json", JSON.stringify(sizes));
"""


def run_node(folder: Path, job: dict[str, object], pixels: bytes = b"") -> None:
    # Node takes a file for a module by its ending.
    shutil.copy(PAGE / "resize.js", folder / "resize.mjs")
    (folder / "run.mjs").write_text(PROGRAM)
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "pixels.bin").write_bytes(pixels)
    subprocess.run([str(NODE), "run.mjs"], cwd=folder, check=True, timeout=120)


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_pixels_are_opencv_s(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (h, w, 4), dtype=np.uint8) for (w, h), _ in SIZES]
    job = dict(resize=SIZES, rule=[])
    run_node(tmp_path, job, b"".join(picture.tobytes() for picture in pictures))
    planes = np.frombuffer((tmp_path / "planes.bin").read_bytes(), dtype=np.uint8)
    at = 0
    for picture, (_, (width, height)) in zip(pictures, SIZES):
        expected = cv2.resize(picture[..., :3], (width, height), interpolation=cv2.INTER_LINEAR)
        found = planes[at : at + expected.size].reshape(3, height, width).transpose(1, 2, 0)
        at += expected.size
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() == 0, f"{picture.shape} to {width}x{height}: {difference.max()}"


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_sizes_are_the_runtime_s(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    info = ModelInfo("1", "c", ("a",), True, (1333, 800), (0.0,) * 3, (1.0,) * 3)
    about = json.loads(info.to_json())
    sizes = generator.integers(200, 3000, (300, 2)).tolist()
    square = {**about, "resize": dict(keep_ratio=False, scale=[320, 256])}
    fixed = {**about, "size": [800, 800]}
    rule = [*([w, h, about] for w, h in sizes), [99, 55, square], [3000, 40, about], [640, 480, fixed]]
    run_node(tmp_path, dict(resize=[], rule=rule))
    *found, squared, narrow, other = json.loads((tmp_path / "sizes.json").read_text())
    for (width, height), size in zip(sizes, found):
        assert input_size(height, width, info) == (size[1], size[0])
    assert squared == [320, 256]
    assert "too narrow" in narrow and "takes 800 × 800 pixels only" in other
