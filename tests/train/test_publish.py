"""train/publish.py: a trained model as files to ship."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")
pytest.importorskip("safetensors")
from mmdet.apis import DetInferencer, inference_detector, init_detector  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from safetensors import safe_open  # noqa: E402

from mmdet_mobileformer.models import config_path  # noqa: E402
from mmdet_mobileformer.train.publish import CARD, publish, round_weights  # noqa: E402
from mmdet_mobileformer.train.safe_loading import load_reference  # noqa: E402

CLASSES = ("cat", "dog", "owl", "fox", "hen", "cow")
ENTRIES: dict[str, Any] = {
    **{key: f"the {key}" for key in CARD},
    "scores": {"AP on val": 0.123},
    "can": ["find cats"],
    "cannot": ["find bats"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint as mmengine saves it after training the demo's config, with its card and log."""
    register_all_modules(init_default_scope=True)
    folder = tmp_path_factory.mktemp("trained")
    config = Path(config_path("e2emf_demo"))
    torch.manual_seed(3)
    state = MODELS.build(Config.fromfile(str(config)).model).state_dict()
    meta = dict(dataset_meta=dict(classes=CLASSES), epoch=3)
    torch.save(dict(state_dict=state, meta=meta, optimizer={}), folder / "epoch_3.pth")
    (folder / "card.json").write_text(json.dumps(ENTRIES))
    (folder / "scalars.json").write_text('{"loss": 1.0, "iter": 1}\n')
    return dict(
        config=config, checkpoint=folder / "epoch_3.pth", card=folder / "card.json",
        log=folder / "scalars.json",
    )


@pytest.mark.slow
def test_the_folder_has_all_and_detects(trained: dict[str, Path], tmp_path: Path) -> None:
    made = publish(folder=tmp_path / "demo_model", data_root="data/mine", **trained)
    names = {file.name for file in made.folder.iterdir()}
    weights = f"demo_model-{made.sha256[:8]}.safetensors"
    assert names == {weights, "demo_model.py", "README.md", "SHA256SUMS", "training_log.jsonl"}
    assert made.weights.stat().st_size == made.size < 8_000_000
    for line in (made.folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == digest
    card = (made.folder / "README.md").read_text()
    for text in (made.sha256, "the title", "| AP on val | 0.123 |", "- find cats", "- find bats",
                 "the data_licences", "cat, dog, owl", "`the score_command`"):
        assert text in card, text
    with safe_open(made.weights, framework="pt") as stream:
        assert json.loads(stream.metadata()["classes"]) == list(CLASSES)
        kinds = {stream.get_tensor(key).dtype for key in stream.keys()}  # noqa: SIM118
        assert torch.float16 in kinds
        # What only training reads is gone.
        assert not [key for key in stream.keys() if key.startswith(("aux_", "bbox_head.den"))]  # noqa: SIM118
    # The config stands alone and names no folder of this machine.
    text = (made.folder / "demo_model.py").read_text()
    assert "_base_" not in text and "train_dataloader" not in text and "data/mine" in text
    # mmdet's own entrances load it, into float32, with the classes.
    config = str(made.folder / "demo_model.py")
    model = init_detector(config, str(made.weights), device="cpu")
    assert model.dataset_meta["classes"] == CLASSES
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    ours = inference_detector(model, picture).pred_instances
    # Rounding moves the predictions of the original by little.
    original = init_detector(str(trained["config"]), str(trained["checkpoint"]), device="cpu")
    theirs = inference_detector(original, picture).pred_instances
    assert torch.allclose(ours.scores, theirs.scores, atol=5e-3)
    inferencer = DetInferencer(config, str(made.weights), device="cpu", show_progress=False)
    assert len(inferencer(picture)["predictions"][0]["scores"]) == 49
    # It is a checkpoint to start from, too.
    assert load_reference(str(made.weights))["meta"]["dataset_meta"]["classes"] == CLASSES


def test_nothing_is_overwritten_and_what_is_wrong_is_named(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there exists and is kept"):
        publish(folder=tmp_path / "there", **trained)
    with pytest.raises(ValueError, match="the weights take .* ship a smaller model"):
        publish(folder=tmp_path / "large", most_bytes=1000, **trained)
    bad = tmp_path / "card.json"
    bad.write_text(json.dumps({**ENTRIES, "cannot": []}))
    with pytest.raises(ValueError, match=r"lacks cannot \(list of what it cannot\)"):
        publish(folder=tmp_path / "new", **{**trained, "card": bad})
    bad.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        publish(folder=tmp_path / "new", **{**trained, "card": bad})
    with pytest.raises(FileNotFoundError, match="log .* does not exist"):
        publish(folder=tmp_path / "new", **{**trained, "log": tmp_path / "no.json"})
    other = Path(config_path("e2emf_26m_coco"))
    with pytest.raises(ValueError, match="does not fit the config's model"):
        publish(folder=tmp_path / "new", **{**trained, "config": other})
    assert {path.name for path in tmp_path.iterdir()} == {"there", "card.json"}


def test_what_does_not_bear_rounding_stays() -> None:
    state = {
        "a.weight": torch.tensor([1.0, -0.333]),
        "bn.running_var": torch.tensor([1.0, 1e-9]),
        "huge": torch.tensor([1e6]),
        "tiny": torch.full((4,), 1e-9),
        "bn.num_batches_tracked": torch.tensor(5),
        "index": torch.tensor([3]),
    }
    rounded, kept = round_weights(state)
    assert set(kept) == {"bn.running_var", "huge", "tiny"}
    assert rounded["a.weight"].dtype == torch.float16 and rounded["index"].dtype == torch.int64
    assert torch.equal(rounded["huge"], state["huge"]) and "bn.num_batches_tracked" not in rounded
    with pytest.raises(ValueError, match="NaN or infinity in b"):
        round_weights({"b": torch.tensor([float("nan")])})
