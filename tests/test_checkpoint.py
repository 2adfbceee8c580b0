"""Official checkpoints, safe reading, and what a backbone starts from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmdet_mobileformer import (
    ARCHS,
    MobileFormer,
    MobileFormerClassifier,
    convert_official_state_dict,
)
from mmdet_mobileformer.checkpoint import (
    is_official,
    load_pretrained_backbone,
    official_shapes,
    read_checkpoint,
    recognise_arch,
    unwrap,
)

SPEC = Path(__file__).parents[2] / "shared" / "reference" / "official_state_dict_spec.json"


def official(arch: str = "26m", classes: int = 1000) -> dict[str, Tensor]:
    """An official state dict of random numbers."""
    shapes = official_shapes(arch, classes)
    return {
        key: torch.zeros((), dtype=torch.long) if key.endswith("tracked") else torch.randn(shape)
        for key, shape in shapes.items()
    }


@pytest.mark.skipif(not SPEC.is_file(), reason="the official key list is not part of the repository")
@pytest.mark.parametrize("arch", ARCHS)
def test_keys_and_shapes_are_the_official_ones(arch: str) -> None:
    spec = {key: tuple(shape) for key, shape in json.loads(SPEC.read_text())[arch].items()}
    assert official_shapes(arch) == spec


@pytest.mark.parametrize("arch", ARCHS)
def test_the_arch_is_recognised_and_the_conversion_complete(arch: str) -> None:
    state_dict = official(arch)
    assert is_official(state_dict) and recognise_arch(state_dict) == arch
    converted = convert_official_state_dict(state_dict, arch)
    MobileFormerClassifier(arch).load_state_dict(converted, strict=True)
    assert not is_official(converted)


def test_another_number_of_classes_converts() -> None:
    state_dict = official(classes=7)
    assert recognise_arch(state_dict) == "26m"
    assert convert_official_state_dict(state_dict, "26m")["head.fc2.weight"].shape == (7, 1024)


def test_what_is_no_mobile_former_is_named() -> None:
    with pytest.raises(ValueError, match=r"no weights of an official .*\(keys: conv1.weight \.\.\.\)"):
        recognise_arch({"conv1.weight": torch.zeros(1)})
    state_dict = official("96m")
    del state_dict["stem.0.weight"]
    state_dict["features.1.extra"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        recognise_arch(state_dict)
    for part in ("nearest, 96m", "1 keys are missing (stem.0.weight)", "unknown (features.1.extra)"):
        assert part in str(error.value)


def test_conversion_refuses_what_it_does_not_know() -> None:
    state_dict = official()
    with pytest.raises(ValueError, match="no official checkpoint of Mobile-Former-52m.*misshapen"):
        convert_official_state_dict(state_dict, "52m")
    with pytest.raises(ValueError, match=r"unknown \(features.1.extra.weight\)"):
        convert_official_state_dict({**state_dict, "features.1.extra.weight": torch.zeros(1)}, "26m")
    del state_dict["tokens.weight"]
    with pytest.raises(ValueError, match=r"missing \(tokens.weight\)"):
        convert_official_state_dict(state_dict, "26m")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("exploded"), "x"))


def test_reading_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ({"state_dict": Bomb()}, {"args": argparse.Namespace(lr=Bomb())}):
        torch.save(content, "bomb.pth")
        with pytest.raises(ValueError, match="bomb.pth is damaged or holds more than tensors"):
            read_checkpoint("bomb.pth")
        assert not Path("exploded").exists()


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="needs torch >= 2.5")
def test_the_flags_of_training_scripts_are_read(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=0.1, opt="adamw")}, tmp_path / "flags.pth")
    assert read_checkpoint(tmp_path / "flags.pth")["args"].lr == 0.1
    # Allowed while one of our files is read, and not for everybody.
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 truncated"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"damaged{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged{suffix}") as error:
        read_checkpoint(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no.pth does not exist"):
        read_checkpoint("no.pth")


PLAIN = {"stem.0.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("checkpoint", "taken", "dropped"),
    [
        (PLAIN, "", []),
        ({"state_dict": PLAIN, "epoch": 3}, "state_dict", ["epoch"]),
        ({"model": {"state_dict": PLAIN, "x": 1}, "y": 2}, "state_dict", ["y", "x"]),
        ({"state_dict_ema": PLAIN, "state_dict": PLAIN}, "state_dict", ["state_dict_ema"]),
        ({"state_dict_ema": PLAIN}, "state_dict_ema", []),
        ({"state_dict": {f"module.{k}": v for k, v in PLAIN.items()}}, "state_dict", []),
        ({f"module._orig_mod.{k}": v for k, v in PLAIN.items()}, "", []),
    ],
)
def test_what_training_scripts_add_is_taken_off(
    checkpoint: Any, taken: str, dropped: list[str]
) -> None:
    found = unwrap(checkpoint, "x.pth")
    assert list(found.state_dict) == ["stem.0.weight"]
    assert (found.taken, found.dropped) == (taken, dropped)


def test_the_moving_average_on_request() -> None:
    checkpoint = {"state_dict": PLAIN, "state_dict_ema": {"module.a": torch.ones(1)}}
    found = unwrap(checkpoint, "x.pth", ema=True)
    assert list(found.state_dict) == ["a"] and found.dropped == ["state_dict"]
    with pytest.raises(ValueError, match="x.pth holds no moving average"):
        unwrap({"state_dict": PLAIN}, "x.pth", ema=True)


@pytest.mark.parametrize("checkpoint", [{}, [1], {"epoch": 3}, {"state_dict": {"a": 1}}, None])
def test_no_state_dict_is_one_sentence(checkpoint: Any) -> None:
    with pytest.raises(ValueError, match="x.pth holds no state dict"):
        unwrap(checkpoint, "x.pth")


def expected_backbone(state_dict: dict[str, Tensor], arch: str) -> dict[str, Tensor]:
    converted = convert_official_state_dict(state_dict, arch)
    return {k[9:]: v for k, v in converted.items() if k.startswith("backbone.")}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("form", ["official", "wrapped", "converted", "backbone"])
def test_init_cfg_takes_every_form_of_file(tmp_path: Path, form: str, suffix: str) -> None:
    state_dict, file = official(), tmp_path / f"weights{suffix}"
    expected = expected_backbone(state_dict, "26m")
    content: dict[str, Any] = {
        "official": state_dict,
        "wrapped": {f"module.{key}": value for key, value in state_dict.items()},
        "converted": convert_official_state_dict(state_dict, "26m"),
        "backbone": expected,
    }[form]
    if suffix == ".pth":
        torch.save({"state_dict": content, "epoch": 1} if form == "wrapped" else content, file)
    else:
        save_file(content, file)
    init_cfg = dict(type="Pretrained", checkpoint=str(file))
    backbone = MobileFormer("26m", init_cfg=init_cfg)
    backbone.init_weights()
    assert all(torch.equal(expected[k], v) for k, v in backbone.state_dict().items())
    # Blocks that out_indices leaves out are dropped.
    short = MobileFormer("26m", out_indices=(0, 1), init_cfg=init_cfg)
    short.init_weights()
    assert all(torch.equal(expected[k], v) for k, v in short.state_dict().items())


def test_a_file_of_another_arch_is_named(tmp_path: Path) -> None:
    torch.save(official("52m"), tmp_path / "52m.pth")
    with pytest.raises(ValueError, match="does not fit .*-26m: it holds Mobile-Former-52m"):
        load_pretrained_backbone(MobileFormer("26m"), tmp_path / "52m.pth")
    torch.save(MobileFormer("52m").state_dict(), tmp_path / "ours.pth")
    with pytest.raises(ValueError, match="does not fit .*-26m: .*misshapen"):
        load_pretrained_backbone(MobileFormer("26m"), tmp_path / "ours.pth")


def test_pretrained_in_a_config_takes_an_official_file(tmp_path: Path) -> None:
    """`pretrained = FILE` of tools/train.py, up to the weights in the built detector."""
    registry = pytest.importorskip("mmdet.registry")
    utils = pytest.importorskip("mmdet.utils")
    from mmengine.config import Config

    from mmdet_mobileformer.models import config_path
    from mmdet_mobileformer.train.pretrained import apply_pretrained

    state_dict = official("26m")
    save_file(state_dict, tmp_path / "official.safetensors")
    for name in ("e2emf_26m_coco", "retinanet_mobileformer_26m_fpn_1x_coco"):
        cfg = Config.fromfile(config_path(name))
        cfg.pretrained = str(tmp_path / "official.safetensors")
        apply_pretrained(cfg)
        utils.register_all_modules(init_default_scope=True)
        model = registry.MODELS.build(cfg.model)
        model.init_weights()
        loaded = model.backbone.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in expected_backbone(state_dict, "26m").items())
        assert cfg.model.backbone.norm_eval is True
