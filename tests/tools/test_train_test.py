"""tools/train.py and tools/test.py as a user runs them, on a tiny detector."""

from __future__ import annotations

import ctypes
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "train"))
from tiny_run import make_run  # noqa: E402

from mmdet_mobileformer.train import hooks  # noqa: E402


def run(monkeypatch: pytest.MonkeyPatch, tool: str, *args: object, cwd: Path) -> None:
    """Run a tool in this process: as `python tools/X`, without the seconds of its imports."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [tool, *map(str, args)])
    monkeypatch.setenv("LOCAL_RANK", "0")
    runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")


class Trained:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.data = make_run(folder)
        self.flags = ("--data-root", self.data, "--work-dir", folder / "work")
        self.releases: list[int] = []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One epoch, then a second one by --resume."""
    result = Trained(tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "release_freed_memory", lambda: result.releases.append(1))
        patch.setattr(hooks.BoundHistoryHook, "LENGTH", 1)
        run(patch, "train.py", result.config, *result.flags, cwd=result.folder)
        first = torch.load(result.folder / "work/epoch_1.pth", weights_only=True)
        assert first["meta"]["epoch"] == 1 and first["meta"]["iter"] == 2
        two = ("--resume", "--cfg-options", "train_cfg.max_epochs=2")
        run(patch, "train.py", result.config, *result.flags, *two, cwd=result.folder)
    return result


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_is_released_after_each_validation(trained: Trained) -> None:
    assert len(trained.releases) == 2


def test_a_checkpoint_does_not_hold_all_that_was_logged(trained: Trained) -> None:
    checkpoint = torch.load(trained.folder / "work/epoch_1.pth", weights_only=True)
    assert checkpoint["meta"]["iter"] == 2
    assert len(checkpoint["message_hub"]["log_scalars"]["train/loss"].data[0]) == 1


def test_resumed_and_finished(trained: Trained) -> None:
    last = torch.load(trained.folder / "work/epoch_2.pth", weights_only=True)
    assert last["meta"]["epoch"] == 2 and last["meta"]["iter"] == 4
    steps = {int(state["step"]) for state in last["optimizer"]["state"].values()}
    assert steps == {4}, "the optimizer's state went on"


def test_resume_equals_a_run_in_one_go(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bit for bit, from the middle of an epoch, with dropout, flips, shuffling and an average."""
    config = trained.config.with_name("exact.py")
    config.write_text(
        f"_base_ = './{trained.config.name}'\n"
        "train_cfg = dict(max_epochs=2, val_interval=2)\n"
        "train_dataloader = dict(batch_size=1, sampler=dict(shuffle=True), dataset=dict(dataset=dict("
        "pipeline=_base_.load + _base_.resize + [dict(type='RandomFlip', prob=0.5)] + _base_.pack)))\n"
        "default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))\n"
        "custom_hooks = [dict(type='EMAHook')]\n"
        "model = dict(bbox_head=dict(dropout=0.1))\n"
        "param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=6)]\n"
    )
    flags = ("--data-root", trained.data, "--work-dir")
    run(monkeypatch, "train.py", config, *flags, tmp_path / "work", cwd=tmp_path)
    again = (tmp_path / "again", "--resume", tmp_path / "work/iter_3.pth")
    run(monkeypatch, "train.py", config, *flags, *again, cwd=tmp_path)
    first, second = (
        torch.load(tmp_path / folder / "iter_8.pth", weights_only=True)
        for folder in ("work", "again")
    )
    assert not (tmp_path / "again/iter_3.pth").exists(), "it went on after it"
    for part in ("state_dict", "ema_state_dict"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), name
    for index, state in first["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second["optimizer"]["state"][index][name]), name


def test_test_equals_validation(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "test.pkl"
    flags = (*trained.flags, "--out", out, "--show-dir", "painted")
    file = trained.folder / "work/epoch_2.pth"
    run(monkeypatch, "test.py", trained.config, file, *flags, cwd=trained.folder)
    validated: list[Any] = pickle.loads((trained.folder / "val.pkl").read_bytes())
    tested: list[Any] = pickle.loads(out.read_bytes())
    assert [sample["img_id"] for sample in tested] == [1, 2, 3]
    for ours, theirs in zip(validated, tested):
        assert ours["img_id"] == theirs["img_id"]
        for key in ("bboxes", "scores", "labels"):
            a, b = ours["pred_instances"][key], theirs["pred_instances"][key]
            assert len(a) == 10 and torch.allclose(a.double(), b.double(), rtol=0, atol=1e-5)
    assert list((trained.folder / "work").glob("*/painted/*.png"))


def test_test_time_augmentation(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "tta.pkl"
    file = trained.folder / "work/epoch_2.pth"
    flags = (*trained.flags, "--tta", "--out", out)
    run(monkeypatch, "test.py", trained.config, file, *flags, cwd=trained.folder)
    assert [sample["img_id"] for sample in pickle.loads(out.read_bytes())] == [1, 2, 3]


def test_amp_trains_on_the_cpu(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("for machines without a GPU")
    flags = ("--data-root", trained.data, "--work-dir", tmp_path / "work", "--amp")
    run(monkeypatch, "train.py", trained.config, *flags, "--auto-scale-lr", cwd=tmp_path)
    weights = torch.load(tmp_path / "work/epoch_1.pth", weights_only=True)["state_dict"]
    floating = [value for value in weights.values() if value.is_floating_point()]
    assert all(v.dtype is torch.float32 and torch.isfinite(v).all() for v in floating)


@pytest.mark.parametrize(
    ("tool", "args", "message"),
    [
        ("train.py", ("no.py",), "config no.py does not exist"),
        ("train.py", ("CONFIG", "--resume", "no.pth"), "checkpoint no.pth does not exist"),
        ("train.py", ("CONFIG", "--data-root", "nowhere"), "nowhere/annotations/instances_train"),
        ("train.py", ("CONFIG", "--launcher", "slurm"), "--launcher slurm needs GPUs"),
        ("train.py", ("CONFIG", "--cfg-options", "pretrained=no.pth"), "pretrained='no.pth'"),
        ("test.py", ("CONFIG", "no.pth"), "checkpoint no.pth does not exist"),
        (
            "test.py",
            ("CONFIG", "CHECKPOINT", "--cfg-options", "model.bbox_head.num_queries=11"),
            "does not fit the config's model: 1 weights",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    tool: str,
    args: tuple[str, ...],
    message: str,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    names = {"CONFIG": trained.config, "CHECKPOINT": trained.folder / "work/epoch_2.pth"}
    # The last --data-root counts, so the flags of the case win.
    first, rest = names.get(args[0], args[0]), [names.get(arg, arg) for arg in args[1:]]
    flags = ("--data-root", trained.data, "--work-dir", tmp_path / "work")
    position = 1 if tool == "test.py" else 0
    arguments = [first, *rest[:position], *flags, *rest[position:]]
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, tool, *arguments, cwd=tmp_path)
    assert exit_.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(tool)]
    assert len(lines) == 1 and message in lines[0]


def test_a_wrong_pretrained_file_stops(
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    torch.save({"state_dict": {"backbone.stem.bn.weight": torch.ones(3)}}, tmp_path / "w.pth")
    flags = ("--data-root", trained.data, "--work-dir", tmp_path / "work", "--cfg-options")
    with pytest.raises(SystemExit):
        run(monkeypatch, "train.py", trained.config, *flags, "pretrained=w.pth", cwd=tmp_path)
    assert "does not fit the backbone" in capsys.readouterr().err
    assert not list((tmp_path / "work").glob("*.pth"))


def test_as_a_command_from_anywhere(trained: Trained, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/train.py"), str(trained.config)]
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "data/nowhere/annotations" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "work_dirs").exists()
