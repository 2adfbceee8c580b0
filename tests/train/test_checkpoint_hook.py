"""Killed at any moment, or on a full disk: the last checkpoint loads, and nothing is lost."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")

from exact_run import add_validation, config, train

from mmdet_mobileformer.stack import allow_mmengine_checkpoints
from mmdet_mobileformer.train import checkpoint_hook
from mmdet_mobileformer.train.checkpoint_hook import write_atomically
from mmdet_mobileformer.train.errors import one_sentence_errors
from mmdet_mobileformer.train.guards import latest_checkpoint


def run_config(folder: Path) -> Any:
    """Six iterations, each saved, validated every second; two checkpoints and the best are kept."""
    cfg = config(folder, by_epoch=False)
    cfg.train_cfg.update(max_iters=6)
    cfg = add_validation(cfg)
    cfg.train_cfg.update(val_interval=2)
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=2)
    return cfg


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".pth", ".partial"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "iter_6.pth", weights_only=True)
    return state["state_dict"]


class _TornFile:
    """A file that comes half written before anything else happens."""

    def __init__(self, file: Any, step: Callable[[], None]) -> None:
        self.file, self.step = file, step

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.step()
        return half + int(self.file.write(data[half:]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> _TornFile:
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()


def kill_at(number: int) -> None:
    """Make the process kill itself right before its `number`-th change of the disk."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            step()
            return function(*args, **kwargs)

        return call

    real_open = builtins.open

    def torn_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "wb":
            return real_open(file, mode, *args, **kwargs)
        step()
        return _TornFile(real_open(file, mode, *args, **kwargs), step)

    builtins.open = torn_open  # type: ignore[assignment]
    for name in ("fsync", "replace", "unlink", "remove"):
        setattr(os, name, before(getattr(os, name)))


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked process; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_kills(folder: Path, every: int) -> int:
    """Kill a run at every such change of the disk, resume it, compare; returns how many there are."""
    allow_mmengine_checkpoints()
    train(run_config(folder / "whole"))
    expected, names = weights(folder / "whole"), files(folder / "whole")
    assert names[1:] == ["iter_5.pth", "iter_6.pth"] and names[0].startswith("best_acc_iter_")
    number = 1
    while True:
        work = folder / f"killed_{number}"

        def killed(number: int = number, work: Path = work) -> None:
            kill_at(number)
            train(run_config(work))

        code = in_child(killed)
        if code == 0:
            return number - 1
        assert code == -signal.SIGKILL
        for file in work.glob("*.pth"):
            torch.load(file, weights_only=True)
        latest = latest_checkpoint(str(work))
        assert latest is None or Path(latest).is_file()
        assert latest is not None or not list(work.glob("iter_[2-6].pth")), "the note is missing"
        assert in_child(lambda work=work: train(run_config(work), resume=True)) == 0
        assert files(work) == names, f"killed before change {number}"
        found = weights(work)
        assert all(torch.equal(value, found[key]) for key, value in expected.items()), number
        number += every


def test_killed_at_some_moments(tmp_path: Path) -> None:
    assert check_kills(tmp_path, every=17) > 60


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path: Path) -> None:
    assert check_kills(tmp_path, every=5) > 60


def test_a_file_is_replaced_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "a.pth"
    write_atomically(file, b"one")
    write_atomically(file, b"two")
    assert file.read_bytes() == b"two" and list(file.parent.iterdir()) == [file]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_hook.os, "fsync", full)
    with pytest.raises(
        OSError, match="a.pth cannot be written .No space left on device.: what was"
    ):
        write_atomically(file, b"three")
    assert file.read_bytes() == b"two" and list(file.parent.iterdir()) == [file]


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """The limit on file sizes stands for the disk: the kernel refuses the write."""
    allow_mmengine_checkpoints()
    train(run_config(tmp_path), stop=3)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}
    assert "iter_3.pth" in before
    said = tmp_path / "said.txt"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = len(before["iter_3.pth"]) // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with open(said, "w") as sys.stderr, one_sentence_errors():
            train(run_config(tmp_path), resume=True)

    assert in_child(work) == 1
    lines = [line for line in said.read_text().splitlines() if "cannot be written" in line]
    assert len(lines) == 1 and "iter_4.pth" in lines[0] and "--resume" in lines[0]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")} == before
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / "iter_3.pth")
    assert not list(tmp_path.glob("*.partial"))


def test_a_new_run_keeps_the_files_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(run_config(tmp_path))
    old = (tmp_path / "iter_6.pth").read_bytes()
    cfg = run_config(tmp_path)
    cfg.log_level = "WARNING"
    train(cfg)
    kept = sorted(tmp_path.glob("iter_*.pth.old-*"))
    assert [path.name.partition(".old-")[0] for path in kept] == ["iter_5.pth", "iter_6.pth"]
    assert kept[1].read_bytes() == old
    output = capsys.readouterr()
    assert (output.out + output.err).count("a checkpoint of another run is kept as") >= 2


def test_a_run_resumed_elsewhere_leaves_the_first_folder_alone(tmp_path: Path) -> None:
    train(run_config(tmp_path / "first"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "first").glob("*.pth")}
    cfg = run_config(tmp_path / "second")
    cfg.train_cfg.max_iters = 12
    train(cfg, resume=str(tmp_path / "first" / "iter_6.pth"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "first").glob("*.pth")} == before
    assert {"iter_11.pth", "iter_12.pth"} <= set(files(tmp_path / "second"))


def test_other_stores_keep_mmengine_s_way(tmp_path: Path) -> None:
    cfg = run_config(tmp_path)
    cfg.default_hooks.checkpoint.backend_args = dict(backend="local")
    runner, _ = train(cfg)
    assert runner is not None
    hook = next(h for h in runner.hooks if isinstance(h, checkpoint_hook.AtomicCheckpointHook))
    assert hook.backend_args == dict(backend="local")
    assert files(tmp_path)[1:] == ["iter_5.pth", "iter_6.pth"]
