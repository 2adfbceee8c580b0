"""The attention that is shown is the one that the models compute."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet.models")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from tiny_run import make_run  # noqa: E402

from mmdet_mobileformer.analysis.attention import (  # noqa: E402
    Seen,
    look_at,
    over_uniform,
    to_former_weights,
    to_mobile_weights,
)
from mmdet_mobileformer.analysis.attention_page import attention_page  # noqa: E402
from mmdet_mobileformer.analysis.attention_sheet import attention_sheet  # noqa: E402
from mmdet_mobileformer.analysis.inference import (  # noqa: E402
    collect,
    detect_pictures,
    detect_video,
    make_inferencer,
)
from mmdet_mobileformer.head_reference import Place  # noqa: E402
from mmdet_mobileformer.layers import FormerToMobile, Look, MobileToFormer  # noqa: E402
from mmdet_mobileformer.train.build import read_config  # noqa: E402


@pytest.mark.parametrize(("full", "told"), [(False, 0), (True, 0), (True, 1)])
def test_to_former_weights_give_the_module_s_output(full: bool, told: int) -> None:
    """With mask, positions and the reference boxes' look, as in the head, and without."""
    module = MobileToFormer(16, 12, num_heads=2, with_logits=not told, told=told).eval()
    x, tokens = torch.randn(2, 16, 5, 7), torch.randn(2, 4, 12)
    arguments: dict[str, Any] = {}
    if full:
        mask = torch.zeros(2, 5, 7, dtype=torch.bool)
        mask[1, :, 5:] = True
        look = Place.of_map(mask, x).look(torch.rand(2, 4, 4), 2, "edges")
        if told:
            shares = torch.rand(2, 4, 35).masked_fill(mask.flatten(1)[:, None], 0.0)
            look = Look(look.queries[:, 1:], look.keys, shares / shares.sum(-1, keepdim=True))
        arguments = dict(mask=mask, pos=torch.randn(2, 16, 5, 7), query_pos=torch.randn(2, 4, 12), look=look)
    weights = to_former_weights(module, x, tokens, **arguments)
    assert weights.shape == (2, 2, 4, 5, 7)
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 2, 4))
    values = x.flatten(2).unflatten(1, (2, 8))
    read = torch.einsum("nhtp,nhcp->nthc", weights.flatten(3), values).flatten(2)
    located = tokens + arguments.get("query_pos", 0)
    gated = read * 2 * F.hardsigmoid(module.gate(located))
    expected, _ = module(x, tokens, **arguments)
    torch.testing.assert_close(module.norm(tokens + module.out(gated)), expected)


@pytest.mark.parametrize("full", [False, True])
def test_to_mobile_weights_give_the_module_s_output(full: bool) -> None:
    module = FormerToMobile(16, 12, num_heads=2).eval()
    x, tokens = torch.randn(2, 16, 5, 7), torch.randn(2, 4, 12)
    arguments = dict(pos=torch.randn(1, 16, 5, 7), query_pos=torch.randn(2, 4, 12)) if full else {}
    weights = to_mobile_weights(module, x, tokens, **arguments)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 2, 5, 7))
    values = module.value(tokens).unflatten(-1, (2, 8))
    update = torch.einsum("nhtyx,nthc->nhcyx", weights, values).flatten(1, 2)
    torch.testing.assert_close(x + update, module(x, tokens, **arguments))


@pytest.fixture(scope="module")
def inferencer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An untrained detector with reference boxes, through config and checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    config, _ = make_run(folder)
    config.write_text(config.read_text().replace("num_heads=2", "num_heads=2, reference_boxes=True"))
    torch.manual_seed(0)
    register_all_modules(init_default_scope=True)
    model = MODELS.build(read_config(str(config)).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / "weights.pth")
    made = make_inferencer(str(config), str(folder / "weights.pth"))
    made.folder = folder
    return made


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "some.png"
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    return file


@pytest.fixture(scope="module")
def seen(inferencer: Any, picture: Path) -> Seen:
    result = look_at(inferencer, picture, queries=3)
    result.title = "some.png & <more>"
    return result


def test_classes_are_the_config_s(inferencer: Any) -> None:
    assert inferencer.model.dataset_meta["classes"] == ("box", "disc")


def test_every_block_and_step_is_there(seen: Seen, inferencer: Any) -> None:
    backbone, head = inferencer.model.backbone, inferencer.model.bbox_head
    with_bridges = [i for i, b in enumerate(backbone.blocks) if hasattr(b, "mobile_to_former")]
    assert [block.index for block in seen.blocks] == with_bridges
    for block in seen.blocks:
        np.testing.assert_allclose(block.to_former.sum((-1, -2)), 1, atol=1e-4)
        np.testing.assert_allclose(block.to_mobile.sum(1), 1, atol=1e-4)
    strides = [block.out_stride for block in seen.blocks]
    assert strides == sorted(strides) and strides[-1] == 32
    names = ["start", "1/32 block 1", "1/16 block 1", "1/8 block 1", "1/8 closing"]
    assert all([step.name for step in query.steps] == names for query in seen.queries)
    weights = seen.queries[0].steps[1].weights
    assert weights is not None and weights.shape[0] == head.num_heads
    scores = [query.score for query in seen.queries]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3


def test_boxes_and_scores_are_the_prediction_s(seen: Seen, inferencer: Any, picture: Path) -> None:
    (sample,) = inferencer(str(picture), return_datasamples=True)["predictions"]
    found = sample.pred_instances
    best = seen.queries[0]
    assert best.score == pytest.approx(float(found.scores[0]), abs=1e-6)
    np.testing.assert_allclose(best.steps[-1].box, found.bboxes[0].numpy(), atol=0.05)
    assert best.label == int(found.labels[0])


def test_the_model_is_left_as_it_was(inferencer: Any, seen: Seen) -> None:
    hooks = [m._forward_pre_hooks or m._forward_hooks for m in inferencer.model.modules()]
    assert not any(hooks)


def test_the_page_stands_alone(seen: Seen, tmp_path: Path) -> None:
    attention_page(seen, tmp_path / "seen.html")
    text = (tmp_path / "seen.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', text) and "url(http" not in text
    assert "some.png &amp; &lt;more&gt;" in text and "$" not in text
    tokens = seen.blocks[0].to_former.shape[1]
    heads = 1 + seen.blocks[0].to_former.shape[0]
    assert text.count('class="map tokens-') == 2 * len(seen.blocks) * tokens * heads
    assert text.count('class="map queries-') == 3 * 4 * (1 + 2)
    # One of the maps that lie on each other is shown.
    assert 'body[data-tokens="mean"] .tokens-mean.map' in text


def test_the_sheet_is_drawn(seen: Seen, tmp_path: Path) -> None:
    from PIL import Image

    attention_sheet(seen, tmp_path / "seen.png", panel=60)
    sheet = np.asarray(Image.open(tmp_path / "seen.png"))
    assert sheet.shape[0] > 400 and len(np.unique(sheet.reshape(-1, 3), axis=0)) > 500


def test_a_peak_is_told_in_equal_weights() -> None:
    weights = np.full((4, 5), 0.04)
    weights[0, 0] = 0.24
    assert over_uniform(weights) == pytest.approx(4.8)


def test_pictures_and_a_video(inferencer: Any, picture: Path, tmp_path: Path) -> None:
    import json

    clip = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for _ in range(2):
        writer.write(cv2.resize(cv2.imread(str(picture)), (96, 64)))
    writer.release()
    pictures, videos = collect([str(picture.parent), str(clip)])
    assert (pictures, videos) == ([picture], [clip])
    detect_pictures(inferencer, pictures, tmp_path / "out", 0.0)
    assert cv2.imread(str(tmp_path / "out/vis/some.png")).shape == (60, 90, 3)
    assert len(json.loads((tmp_path / "out/preds/some.json").read_text())["scores"]) == 10
    assert detect_video(inferencer, clip, tmp_path / "out", 0.0) == 2
    content = json.loads((tmp_path / "out/clip.json").read_text())
    assert content["fps"] == 10 and [len(f["bboxes"]) for f in content["frames"]] == [10, 10]
    reader = cv2.VideoCapture(str(tmp_path / "out/clip.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_bad_inputs_are_named(inferencer: Any, picture: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        collect([str(tmp_path / "absent.png")])
    with pytest.raises(ValueError, match="neither a picture nor a video"):
        collect([str(tmp_path)])
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="bad.jpg is no picture"):
        collect([str(bad)])
    again = tmp_path / "some.png"
    again.write_bytes(picture.read_bytes())
    with pytest.raises(ValueError, match="results of the same name"):
        collect([str(picture), str(again)])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ValueError, match="broken.mp4 cannot be read"):
        detect_video(inferencer, broken, tmp_path / "out", 0.3)
    with pytest.raises(ValueError, match="--device nothing does not work here"):
        make_inferencer(str(inferencer.folder / "tiny.py"), "weights.pth", "nothing")
