"""The official backbone's numbers, reproduced.

Source of the values: the official code (AAboys/MobileFormer, its backbone) run in float64 on
weights filled by mmdet_mobileformer/golden.py. They are facts about it; none of its code is here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdet_mobileformer import MobileFormerClassifier, convert_official_state_dict
from mmdet_mobileformer.golden import GOLDEN, Golden, image, official_state_dict

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

def classifier(arch: str, dynamic_relu: str) -> MobileFormerClassifier:
    model = MobileFormerClassifier(arch, dynamic_relu=dynamic_relu)
    model.load_state_dict(convert_official_state_dict(official_state_dict(arch), arch))
    return model.eval()

def run(
    model: MobileFormerClassifier, images: Tensor
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Output of every block, and the logits."""
    blocks: list[tuple[Tensor, Tensor]] = []
    handles = [
        block.register_forward_hook(lambda module, args, out: blocks.append(out))
        for block in model.backbone.blocks
    ]
    with torch.no_grad():
        logits = model(images)
    for handle in handles:
        handle.remove()
    return blocks, logits

def worst(found: Tensor, std: float, at: dict[int, float]) -> float:
    """Largest error at the given flat positions, in units of the golden standard deviation."""
    flat = found.double().flatten()
    return max(abs(flat[index].item() - value) / std for index, value in at.items())

@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: f"{g.arch}-{g.dynamic_relu}")
def test_typed_golden_values(golden: Golden, dtype: torch.dtype) -> None:
    model = classifier(golden.arch, golden.dynamic_relu).to(dtype)
    blocks, logits = run(model, image((2, 3, 224, 224)).to(dtype))
    features, tokens = blocks[-1]
    for found, summary in (
        (features, golden.features), (tokens, golden.tokens), (logits, golden.logits)
    ):
        assert worst(found, summary.std, summary.at) <= TOLERANCE[dtype]
        assert abs(found.double().std(correction=0).item() / summary.std - 1) <= TOLERANCE[dtype]

def summary_error(found: Tensor, golden: dict[str, Any]) -> float:
    assert list(found.shape) == golden["shape"]
    found = found.double()
    at = {int(index): value for index, value in golden["at"].items()}
    return max(
        abs(found.mean().item() - golden["mean"]) / golden["std"],
        abs(found.std(correction=0).item() - golden["std"]) / golden["std"],
        abs(found.norm().item() - golden["l2"]) / golden["l2"],
        worst(found, golden["std"], at),
    )

@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the full golden file is not part of the repository")
@pytest.mark.parametrize("case", range(28))
def test_every_block_of_every_golden_case(case: int) -> None:
    golden = json.loads((REFERENCE / "backbone_golden.json").read_text())[case]
    model = classifier(golden["arch"], golden["dynamic_relu"])
    images = image(tuple(golden["input_shape"]), golden["seed"])
    for dtype, tolerance in TOLERANCE.items():
        blocks, logits = run(model.to(dtype), images.to(dtype))
        assert len(blocks) == len(golden["blocks"])
        for (features, tokens), expected in zip(blocks, golden["blocks"]):
            assert summary_error(features, expected["features"]) <= tolerance
            assert summary_error(tokens, expected["tokens"]) <= tolerance
        assert summary_error(logits, golden["logits"]) <= tolerance
