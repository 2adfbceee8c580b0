"""Our own errors become one sentence; everything else keeps its traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from mmdet_mobileformer.train import errors
from mmdet_mobileformer.train.build import read_config
from mmdet_mobileformer.train.errors import one_sentence_errors


def test_ours_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_, one_sentence_errors():
        read_config("no/such.py")
    assert exit_.value.code == 1
    text = capsys.readouterr().err
    assert "config no/such.py does not exist" in text and text.count("\n") == 1


def test_ours_inside_anothers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_sentence_errors():
        try:
            read_config("no/such.py")
        except FileNotFoundError as error:
            raise type(error)(f"class `X`: {error}") from None
    assert "config no/such.py does not exist" in capsys.readouterr().err


def test_others_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from elsewhere"), one_sentence_errors():
        raise ValueError("from elsewhere")
    with pytest.raises(FileNotFoundError), one_sentence_errors():
        (tmp_path / "absent").read_text()


def test_only_the_first_process_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), one_sentence_errors():
        read_config("no/such.py")
    assert capsys.readouterr().err == ""


class ReadsNoConfig:
    """A data set that fails with a sentence of this package, or with a defect."""

    def __init__(self, defect: bool) -> None:
        self.defect = defect

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        if self.defect:
            raise ValueError("a defect")
        return read_config("no/such.py")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_from_a_data_worker(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_sentence_errors():
        next(iter(DataLoader(ReadsNoConfig(defect=False), num_workers=1)))
    text = capsys.readouterr().err
    assert "config no/such.py does not exist: give" in text and text.count("\n") == 1
    with pytest.raises(ValueError, match="a defect"), one_sentence_errors():
        next(iter(DataLoader(ReadsNoConfig(defect=True), num_workers=1)))


class Killed(ReadsNoConfig):
    def __getitem__(self, index: int) -> Any:
        os.kill(os.getpid(), 9)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_killed_data_worker(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_sentence_errors():
        next(iter(DataLoader(Killed(defect=False), num_workers=1)))
    text = capsys.readouterr().err
    assert "killed" in text and "num_workers" in text and text.count("\n") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_anywhere(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the write stands in mmengine, as that of the log does."""
    with pytest.raises(SystemExit), one_sentence_errors():
        raise OSError(code, os.strerror(code), "work_dirs/scalars.json")
    text = capsys.readouterr().err
    assert "the disk is full (work_dirs/scalars.json: " in text and "--resume" in text
    with pytest.raises(OSError), one_sentence_errors():
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class FakeGroup:
    """torch.distributed as far as the sentences use it."""

    def __init__(self, keys: dict[str, int] | None) -> None:
        self.keys, self.distributed_c10d = keys, self

    def is_initialized(self) -> bool:
        return True

    def get_rank(self) -> int:
        return 1

    def get_world_size(self) -> int:
        return 2

    def _get_default_store(self) -> FakeGroup:
        return self

    def add(self, key: str, amount: int) -> int:
        if self.keys is None:
            raise RuntimeError("Broken pipe")
        self.keys[key] = self.keys.get(key, 0) + amount
        return self.keys[key]


@pytest.mark.parametrize(
    "text",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:8601: "
        "Connection reset by peer. This is typically caused by a remote worker hanging",
        "[pair.cc:553] Connection closed by peer [127.0.0.1]:50868.",
        "NCCL communicator was aborted on rank 1.",
    ],
)
def test_another_process_is_gone(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError), one_sentence_errors():
        raise RuntimeError(text)  # without several processes it means something else
    monkeypatch.setattr(errors, "dist", FakeGroup(None))
    with pytest.raises(SystemExit), one_sentence_errors():
        raise RuntimeError(text)
    said = capsys.readouterr().err
    assert "process 1 of 2 stops, since another one of this run is gone" in said
    with pytest.raises(torch.cuda.OutOfMemoryError), one_sentence_errors():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_processes_with_the_same_sentence_say_it_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "dist", FakeGroup({}))
    for file in ("a.py", "a.py", "b.py"):
        with pytest.raises(SystemExit), one_sentence_errors():
            read_config(file)
    lines = capsys.readouterr().err.splitlines()
    assert ["a.py" in line for line in lines] == [True, False]
