"""Official checkpoints and safe reading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reference_fill import official_state_dict

from mmdet_mobileformer import ARCHS, MobileFormerClassifier, convert_official_state_dict
from mmdet_mobileformer.checkpoint import is_official, read_checkpoint

SPEC = Path(__file__).parents[2] / "shared" / "reference" / "official_state_dict_spec.json"


@pytest.mark.skipif(not SPEC.is_file(), reason="the official key list is not part of the repository")
@pytest.mark.parametrize("arch", ARCHS)
def test_keys_and_shapes_are_the_official_ones(arch: str) -> None:
    spec = {key: tuple(shape) for key, shape in json.loads(SPEC.read_text())[arch].items()}
    assert {k: tuple(v.shape) for k, v in official_state_dict(arch).items()} == spec


@pytest.mark.parametrize("arch", ["508m", "26m"])
def test_conversion_is_complete(arch: str) -> None:
    official = official_state_dict(arch)
    assert is_official(official)
    converted = convert_official_state_dict(official, arch)
    MobileFormerClassifier(arch).load_state_dict(converted, strict=True)
    assert not is_official(converted)


def test_another_number_of_classes_converts() -> None:
    official = official_state_dict("26m")
    official["classifier.classifier.1.weight"] = torch.zeros(7, 1024)
    official["classifier.classifier.1.bias"] = torch.zeros(7)
    assert convert_official_state_dict(official, "26m")["head.fc2.weight"].shape == (7, 1024)


def test_conversion_refuses_what_it_does_not_know() -> None:
    official = official_state_dict("26m")
    with pytest.raises(ValueError, match="no official checkpoint of Mobile-Former-52m.*misshapen"):
        convert_official_state_dict(official, "52m")
    with pytest.raises(ValueError, match=r"unknown \(features.1.extra.weight\)"):
        convert_official_state_dict({**official, "features.1.extra.weight": torch.zeros(1)}, "26m")
    del official["tokens.weight"]
    with pytest.raises(ValueError, match=r"missing \(backbone.tokens\)"):
        convert_official_state_dict(official, "26m")


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path.write_text, (Path("exploded"), "x"))


def test_reading_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, "bomb.pth")
    with pytest.raises(ValueError, match="bomb.pth is damaged or holds more than tensors"):
        read_checkpoint("bomb.pth")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 truncated"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "damaged.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.pth"):
        read_checkpoint(file)
