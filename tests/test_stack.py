"""The stack: known breaks are named, and checkpoints load safely on every torch and mmengine."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet_mobileformer import stack


class Line(BaseModel):
    """A model of two parameters, enough for a Runner."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        y = self.linear(x)
        return {"loss": (y - x).square().mean()} if mode == "loss" else y


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint written by a real Runner after two epochs."""
    work_dir = tmp_path_factory.mktemp("runner")
    runner = Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[{"x": torch.ones(1) * i} for i in range(4)],
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=dict(type="MultiStepLR", milestones=[1]),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        experiment_name="test_stack",
        log_level="ERROR",
    )
    runner.train()
    return work_dir / "epoch_2.pth"


@pytest.fixture(params=["list", "reader"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of reading: torch's list of safe types, and our own reader for torch < 2.4."""
    if request.param == "reader":
        monkeypatch.delattr(torch.serialization, "add_safe_globals", raising=False)
    elif not hasattr(torch.serialization, "add_safe_globals"):
        pytest.skip("this torch has no list of safe types")


def test_runner_checkpoint_is_refused_without_the_list(checkpoint: Path) -> None:
    if not hasattr(torch.serialization, "clear_safe_globals"):
        pytest.skip("this torch has no list of safe types")
    kept = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(pickle.UnpicklingError):
            torch.load(checkpoint, weights_only=True)
    finally:
        torch.serialization.add_safe_globals(kept)


def test_runner_checkpoint_loads(reader: None, checkpoint: Path) -> None:
    loaded = stack.safe_load(checkpoint)
    assert loaded["meta"]["epoch"] == 2
    loss = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(loss, HistoryBuffer) and loss.data[0].shape == (4,)
    assert loss.mean() == loss.statistics("mean") and np.isfinite(loss.mean())
    weights = loaded["state_dict"]["linear.weight"]
    assert weights.shape == (1, 1) and torch.isfinite(weights).all()
    assert {int(s["step"]) for s in loaded["optimizer"]["state"].values()} == {4}


def test_calling_again_adds_nothing() -> None:
    if not stack.allow_mmengine_checkpoints():
        pytest.skip("this torch has no list of safe types")
    before = len(torch.serialization.get_safe_globals())
    stack.allow_mmengine_checkpoints()
    assert len(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.5),
        np.float32(0.5),
        np.int64(-3),
        np.bool_(True),
        np.str_("a"),
        np.datetime64(7, "s"),
    ],
)
def test_numpy_scalars(reader: None, value: Any, tmp_path: Path) -> None:
    torch.save({"value": value, "array": np.array([value, value])}, tmp_path / "a.pth")
    loaded = stack.safe_load(tmp_path / "a.pth")
    assert loaded["value"] == value and type(loaded["value"]) is type(value)
    assert loaded["array"].tolist() == [value, value]


@pytest.mark.parametrize("zip_format", [True, False])
def test_tensors_of_every_kind(reader: None, zip_format: bool, tmp_path: Path) -> None:
    base = torch.arange(6.0)
    values = {
        "half": torch.ones(2, dtype=torch.float16),
        "view": base[1:4],
        "whole": base,
        "parameter": nn.Parameter(torch.zeros(3)),
        "buffer": torch.tensor(True),
        "module": nn.BatchNorm2d(2).state_dict(),
    }
    file = tmp_path / "a.pth"
    torch.save(values, file, _use_new_zipfile_serialization=zip_format)
    loaded = stack.safe_load(file)
    for key in ("half", "view", "whole", "parameter", "buffer"):
        assert torch.equal(loaded[key], values[key]) and type(loaded[key]) is type(values[key])
    assert loaded["view"].untyped_storage().data_ptr() == loaded["whole"].untyped_storage().data_ptr()
    assert loaded["module"].keys() == nn.BatchNorm2d(2).state_dict().keys()


@pytest.mark.parametrize("spelling", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_spellings_of_numpy(reader: None, spelling: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save([np.float64(0.5), np.arange(3)], file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    for old in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        data = data.replace(b"c" + old + b"\n", b"c" + spelling.encode() + b"\n")
    file.write_bytes(data)
    assert f"c{spelling}\n".encode() in data
    scalar, array = stack.safe_load(file)
    assert scalar == 0.5 and array.tolist() == [0, 1, 2]


class Command:
    """Pickles into a call of the given function, or into a state set on an object."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.call


MALICIOUS = {
    "mkdir": lambda mark: Command(os.mkdir, mark),
    "eval": lambda mark: Command(eval, f"__import__('os').mkdir({mark!r})"),
    "init": lambda mark: Command(getattr, HistoryBuffer, "__init__"),
    "register": lambda mark: Command(getattr, HistoryBuffer, "register_statistics"),
    "ndarray": lambda mark: Command(getattr, np.ndarray, "mean"),
    "globals": lambda mark: Command(getattr, HistoryBuffer.mean, "__globals__"),
    "object-array": lambda mark: np.array([Command(os.mkdir, mark)], dtype=object),
    # Sets an attribute of a function that every later checkpoint would call.
    "state": lambda mark: Command(getattr, HistoryBuffer, "mean", state=(None, {"mark": 1})),
}


@pytest.mark.parametrize("call", MALICIOUS.values(), ids=MALICIOUS)
def test_malicious_files_are_refused(reader: None, call: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"state_dict": {}, "bad": call(str(mark))}, tmp_path / "bad.pth")
    with pytest.raises(pickle.UnpicklingError):
        stack.safe_load(tmp_path / "bad.pth")
    assert not mark.exists() and not hasattr(HistoryBuffer.mean, "mark")


def test_old_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.serialization, "add_safe_globals", raising=False)
    assert stack.allow_mmengine_checkpoints() is False


def test_installed_versions() -> None:
    versions = stack.installed_versions()
    torch_found = versions["torch"]
    assert torch_found is not None and torch.__version__.startswith(torch_found.version[:4])
    assert set(versions) == set(stack.DISTRIBUTIONS)


STOCK = {"torch": "2.13.0", "numpy": "2.4.6", "mmengine": "0.10.7", "mmcv": "2.1.0", "mmdet": "3.3.0"}
ONEDL = {
    **{"torch": "2.13.0+cpu", "numpy": "2.4.6", "onedl-mmengine": "0.10.12"},
    **{"onedl-mmcv": "2.3.6", "onedl-mmdetection": "3.5.1"},
}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Pretends that exactly these distributions are installed, mmcv with or without operators."""

    def install(versions: dict[str, str], operators: bool = True) -> None:
        def version(name: str) -> str:
            if name in versions:
                return versions[name]
            raise stack.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(stack.metadata, "version", version)
        mmcv = tmp_path / "mmcv"
        mmcv.mkdir()
        (mmcv / "__init__.py").touch()
        if operators:
            (mmcv / f"_ext{stack.EXTENSION_SUFFIXES[0]}").touch()
        spec = stack.find_spec("mmengine")  # any package's
        spec.submodule_search_locations = [str(mmcv)]
        monkeypatch.setattr(stack, "find_spec", lambda name: spec if name == "mmcv" else None)

    return install


def test_absent_packages_and_other_distributions(install: Any) -> None:
    install({"onedl-mmcv": "2.3.1"})
    versions = stack.installed_versions()
    assert versions["mmcv"] == ("onedl-mmcv", "2.3.1") and versions["mmdet"] is None


@pytest.mark.parametrize(
    ("versions", "operators"),
    [
        (STOCK, True),
        (ONEDL, True),
        # A backbone alone, or ImageNet: no operators are needed.
        ({"torch": "2.14.1", "mmengine": "0.10.7", "mmcv-lite": "2.1.0"}, False),
        ({"torch": "2.14.1", "mmengine": "0.10.7"}, False),
        ({**STOCK, "torch": "2.0.1", "numpy": "1.26.4"}, True),
    ],
)
def test_what_works_is_not_complained_about(install: Any, versions: Any, operators: bool) -> None:
    install(versions, operators)
    assert stack.known_break() is None


def without(versions: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in versions.items() if key != name}


@pytest.mark.parametrize(
    ("versions", "operators", "parts"),
    [
        (
            {**STOCK, "mmcv": "2.2.0"},
            True,
            ("mmdet 3.3.0 refuses mmcv 2.2.0", "mmcv==2.1.0", "STACK=stock"),
        ),
        (
            {**without(STOCK, "mmcv"), "onedl-mmcv": "2.3.6"},
            True,
            ("mmdet 3.3.0 refuses onedl-mmcv 2.3.6", "mmcv==2.1.0"),
        ),
        (
            {**without(STOCK, "mmcv"), "mmcv-lite": "2.1.0"},
            False,
            ("mmcv-lite 2.1.0 was installed without", "pip uninstall mmcv-lite", "mmcv==2.1.0"),
        ),
        (STOCK, False, ("mmcv 2.1.0 was installed without", "compiled operators", "mmcv==2.1.0")),
        (
            ONEDL,
            False,
            ("onedl-mmcv 2.3.6 was installed without", "onedl-mmcv==2.3.6", "STACK=onedl"),
        ),
        (without(STOCK, "mmcv"), True, ("mmdet 3.3.0 needs mmcv, which is not installed",)),
        (
            {**STOCK, "onedl-mmcv": "2.3.6"},
            True,
            ("mmcv 2.1.0 and onedl-mmcv 2.3.6 are installed over each other", "uninstall both"),
        ),
        ({**STOCK, "mmdet": "2.28.2"}, True, ("mmdet 2.28.2 is too old", "mmdet==3.3.0")),
        ({**STOCK, "torch": "2.0.1"}, True, ("torch 2.0.1 was built for numpy 1", "'numpy<2'")),
    ],
)
def test_known_breaks_are_one_sentence_with_the_fix(
    install: Any, versions: dict[str, str], operators: bool, parts: tuple[str, ...]
) -> None:
    install(versions, operators)
    sentence = stack.known_break()
    assert sentence is not None and "\n" not in sentence
    assert all(part in sentence for part in parts), sentence


def test_the_installed_stack_is_not_broken() -> None:
    pytest.importorskip("mmdet.models")
    assert stack.known_break() is None


def test_a_known_break_is_said_on_import(tmp_path: Path) -> None:
    info = tmp_path / "mmcv-2.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmcv\nVersion: 2.2.0\n")
    pytest.importorskip("mmdet")
    if stack.installed_versions()["mmdet"].distribution != "mmdet":
        pytest.skip("OneDL's mmdet takes mmcv 2.2")
    code = (
        "import warnings, sys\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n"
        "    import mmdet_mobileformer\n"
        "print(*[w.message for w in found if w.category is RuntimeWarning])\n"
        "mmdet_mobileformer.MobileFormer('26m')\n"
        "try:\n"
        "    mmdet_mobileformer.E2EMF\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    lines = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "mmdet 3.3.0 refuses mmcv 2.2.0" in line and "pip install" in line
