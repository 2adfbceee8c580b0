"""tools/model_converters/mobileformer_to_mmdet.py as a user runs it, and convert.py below it."""

from __future__ import annotations

import argparse
import hashlib
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdet_mobileformer import ARCHS, MobileFormer, MobileFormerClassifier, checkpoint, convert
from mmdet_mobileformer.checkpoint import official_shapes, read_checkpoint
from mmdet_mobileformer.golden import TOLERANCE, check_conversion

TOOL = Path(__file__).resolve().parents[2] / "tools/model_converters/mobileformer_to_mmdet.py"


def weights(arch: str = "26m", classes: int = 1000) -> dict[str, Tensor]:
    return {
        key: torch.zeros((), dtype=torch.long) if key.endswith("tracked") else torch.randn(shape)
        for key, shape in official_shapes(arch, classes).items()
    }


def save(content: Any, file: Path) -> Path:
    torch.save(content, file)
    return file


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, args)])
    runpy.run_path(str(TOOL), run_name="__main__")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_as_timm_writes_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    official = weights()
    content = dict(
        epoch=449,
        arch="mobile_former_26m",
        args=argparse.Namespace(lr=8e-4),
        state_dict={f"module.{key}": value for key, value in official.items()},
        state_dict_ema=weights(),
    )
    source, target = save(content, tmp_path / "in.pth.tar"), tmp_path / f"out{suffix}"
    run(monkeypatch, source, target)
    printed = capsys.readouterr().out
    assert "found      Mobile-Former-26m, 1000 classes" in printed
    assert "dropped    epoch, arch, args, state_dict_ema" in printed and "--ema" in printed
    assert "verified   on golden weights" in printed and "not redistributable" in printed

    metadata = convert.read_metadata(target)
    assert metadata["arch"] == "26m"
    assert metadata["source_file"] == "in.pth.tar"
    assert metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert "not redistributable" in metadata["licence"]
    written = read_checkpoint(target)
    model = MobileFormerClassifier("26m")
    model.load_state_dict(written if suffix == ".safetensors" else written["state_dict"])
    assert torch.equal(model.backbone.tokens, official["tokens.weight"])
    backbone = MobileFormer("26m", init_cfg=dict(type="Pretrained", checkpoint=str(target)))
    backbone.init_weights()
    assert torch.equal(backbone.stem.conv.weight, official["stem.0.weight"])
    # Nothing is left beside it, and others may read it as they may read new files.
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(["in.pth.tar", target.name])
    assert target.stat().st_mode == source.stat().st_mode


def test_the_moving_average_and_the_backbone_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    average = weights(classes=3)
    content = dict(state_dict=weights(), state_dict_ema=average)
    source, target = save(content, tmp_path / "in.pth"), tmp_path / "out.safetensors"
    run(monkeypatch, source, target, "--ema", "--backbone-only", "--arch", "26m")
    printed = capsys.readouterr().out
    assert "26m, 3 classes" in printed and "entry 'state_dict_ema'" in printed
    assert "dropped    state_dict, head." in printed
    written = read_checkpoint(target)
    assert all(key.startswith("backbone.") for key in written)
    assert torch.equal(written["backbone.tokens"], average["tokens.weight"])


def no_tokens() -> dict[str, Tensor]:
    return {key: value for key, value in weights().items() if key != "tokens.weight"}


def with_nan() -> dict[str, Tensor]:
    return {**weights(), "stem.1.bias": torch.full((8,), float("nan"))}


@pytest.mark.parametrize(
    ("content", "args", "message"),
    [
        (None, ("no.pth", "out.pth"), "no.pth does not exist"),
        (weights, ("in.pth", "in.pth"), "in.pth exists and is kept"),
        (weights, ("in.pth", "out.onnx"), "out.onnx must end in .safetensors or .pth"),
        (weights, ("in.pth", "no/out.pth"), "folder no of the output does not exist"),
        (weights, ("in.pth", "out.pth", "--arch", "27m"), "arch '27m' is unknown"),
        (weights, ("in.pth", "out.pth", "--arch", "52m"), "no official .* Mobile-Former-52m"),
        (weights, ("in.pth", "out.pth", "--ema"), "in.pth holds no moving average"),
        (no_tokens, ("in.pth", "out.pth"), r"nearest, 26m, 1 keys are missing \(tokens.weight\)"),
        (lambda: {"fc.weight": torch.zeros(2)}, ("in.pth", "out.pth"), "in.pth: these are no weights"),
        (lambda: {"epoch": 3}, ("in.pth", "out.pth"), "in.pth holds no state dict"),
        (with_nan, ("in.pth", "out.pth"), "NaN or infinity in backbone.stem.bn.bias"),
        (
            lambda: MobileFormerClassifier("26m").state_dict(),
            ("in.pth", "out.pth"),
            "has the keys of this package",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, args: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = b""
    if content is not None:
        before = save(content(), tmp_path / "in.pth").read_bytes()
    with pytest.raises(SystemExit, match=message) as exit_:
        run(monkeypatch, *args)
    assert "\n" not in str(exit_.value) and str(exit_.value).startswith("mobileformer_to_mmdet: ")
    assert os.listdir() == (["in.pth"] if before else [])
    assert not before or Path("in.pth").read_bytes() == before


@pytest.mark.parametrize("arch", ARCHS)
def test_golden_weights_give_the_official_numbers(arch: str) -> None:
    assert check_conversion(arch) <= TOLERANCE


def test_a_wrong_name_is_caught_by_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both dynamic ReLUs of a block have the same shapes: only the numbers tell them apart."""
    source = save(weights(), tmp_path / "in.pth")
    relus = {"hyper1": "mobile.relu2", "hyper2": "mobile.relu1"}
    monkeypatch.setitem(checkpoint._RELUS, "mobile", relus)
    with pytest.raises(SystemExit, match="computes other numbers here than the official code"):
        run(monkeypatch, source, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    source, target = save(weights(), tmp_path / "in.pth"), tmp_path / "out.pth"
    monkeypatch.setattr(convert, "check_conversion", lambda arch: float(target.write_bytes(b"mine")))
    if not links:

        def no_links(*args: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(FileExistsError, match="out.pth exists and is kept"):
        convert.convert_checkpoint(source, target, say=lambda line: None)
    assert target.read_bytes() == b"mine" and len(os.listdir(tmp_path)) == 2


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = save(weights(), tmp_path / "in.pth"), tmp_path / "out.pth"

    def full(content: Any, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        convert.convert_checkpoint(source, target, say=lambda line: None)
    assert os.listdir(tmp_path) == ["in.pth"]
