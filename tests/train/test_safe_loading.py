"""Nothing that is loaded runs code, whichever way a checkpoint comes in."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmdet.models")

from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import checkpoint as theirs
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmdet_mobileformer.train import safe_loading
from mmdet_mobileformer.train.safe_loading import read_file


class Call:
    """Pickles into a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class Own:
    """A class that no list allows."""


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_loading, "_trusted", set())


@pytest.fixture
def bomb(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint that makes a folder when its code runs, and that folder."""
    file, mark = tmp_path / "bomb.pth", tmp_path / "mark"
    torch.save({"state_dict": {"a": torch.ones(1)}, "bad": Call(os.mkdir, str(mark))}, file)
    return file, mark


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (lambda mark: Call(os.mkdir, mark), "posix.mkdir"),
        (lambda mark: Call(eval, f"__import__('os').mkdir({mark!r})"), "holds eval,"),
        (lambda mark: Own(), "test_safe_loading.Own"),
        (lambda mark: Call(getattr, HistoryBuffer, "__init__"), "attribute '__init__'"),
        (lambda mark: np.array([Call(os.mkdir, mark)], dtype=object), "ObjectDType"),
        (lambda mark: Path(mark), "pathlib.PosixPath"),
    ],
    ids=["mkdir", "eval", "class", "getattr", "object array", "path"],
)
def test_the_sentence_names_what_is_blocked(
    value: Any, named: str, zipped: bool, tmp_path: Path
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "bad.pth"
    torch.save({"a": value(str(mark))}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError) as error:
        read_file(file)
    text = str(error.value)
    assert named in text and "--trust-checkpoint" in text and str(file) in text
    assert "\n" not in text and not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\x80\x02}", b"PK\x03\x04 cut off", b"not a checkpoint", bytes(600)]
)
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.pth .*damaged.*fetch it again") as error:
        read_file(file)
    assert "\n" not in str(error.value)


def test_a_tar_file_of_an_old_torch(tmp_path: Path) -> None:
    """torch before 2.6 unpickles what lies in it without its checks."""
    file, mark = tmp_path / "a.pth", tmp_path / "mark"
    data = pickle.dumps(Call(os.mkdir, str(mark)))
    with tarfile.open(file, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(ValueError, match="tar file of an old torch.*--trust-checkpoint"):
        read_file(file)
    assert not mark.exists()


def test_every_way_through_mmengine_is_closed(bomb: tuple[Path, Path]) -> None:
    file, mark = bomb
    model = nn.ParameterDict(dict(a=nn.Parameter(torch.zeros(1))))
    with pytest.raises(ValueError, match="posix.mkdir"):
        load_checkpoint(model, str(file))
    child = BaseModule(init_cfg=dict(type="Pretrained", checkpoint=str(file)))
    with pytest.raises(ValueError, match="posix.mkdir"):
        child.init_weights()
    assert not mark.exists()


def test_onedl_s_fallback_is_not_reached(
    bomb: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OneDL's loader tries again without the restriction; shown with a loader that does the same."""
    file, mark = bomb

    def load_from_local(filename: str, map_location: Any) -> Any:
        try:
            return torch.load(filename, weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(filename, weights_only=False)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
        CheckpointLoader.register_scheme("", load_from_local, force=True)
        theirs._load_checkpoint(str(file))
        assert mark.exists(), "the danger is real, so that this test can fail"
        mark.rmdir()
        safe_loading.install()
        with pytest.raises(ValueError, match="posix.mkdir"):
            theirs._load_checkpoint(str(file))
    assert not mark.exists()


def test_a_trusted_file_is_loaded_and_no_other(bomb: tuple[Path, Path], tmp_path: Path) -> None:
    file, mark = bomb
    other = tmp_path / "other.pth"
    other.write_bytes(file.read_bytes())
    safe_loading.trust_checkpoint(os.path.relpath(file))
    assert theirs._load_checkpoint(str(file))["state_dict"]["a"] == 1 and mark.exists()
    with pytest.raises(ValueError, match="posix.mkdir"):
        read_file(other)


def test_configs_are_taken_out(tmp_path: Path) -> None:
    file, mark = tmp_path / "a.pth", tmp_path / "mark"
    code = f"model = dict(type=__import__('os').mkdir({str(mark)!r}))"
    hub = dict(log_scalars={}, runtime_info=dict(cfg=code, epoch=3), resumed_keys={})
    meta = dict(cfg=code, config=code, epoch=3)
    torch.save(dict(state_dict={"a": torch.ones(1)}, meta=meta, message_hub=hub), file)
    from mmdet.apis import DetInferencer

    with pytest.raises(ValueError, match=r"is not executed: name a config, as in DetInferencer"):
        DetInferencer(weights=str(file), device="cpu")
    assert not mark.exists()
    loaded = theirs._load_checkpoint(str(file))
    assert loaded["message_hub"]["runtime_info"] == dict(epoch=3)
    assert "config" not in loaded["meta"] and loaded["meta"]["epoch"] == 3
    safe_loading.trust_checkpoint(file)
    assert theirs._load_checkpoint(str(file))["meta"]["cfg"] == code


def test_a_checkpoint_lands_on_the_device_asked_for(tmp_path: Path) -> None:
    torch.save(dict(state_dict={"a": torch.ones(1)}, rest=[torch.ones(1)]), tmp_path / "a.pth")
    loaded = theirs._load_checkpoint(str(tmp_path / "a.pth"), map_location="meta")
    assert loaded["state_dict"]["a"].is_meta and loaded["rest"][0].is_meta


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server of this process on this machine, and the folder that it shows."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}", folder
        served.shutdown()


def test_a_url_needs_its_hash(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    buffer = io.BytesIO()
    torch.save(dict(state_dict={"a": torch.ones(1)}), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    for name in ("plain.pth", f"named-{digest[:8]}.pth"):
        (folder / name).write_bytes(buffer.getvalue())

    def load(reference: str) -> Any:
        return theirs._load_checkpoint(reference)["state_dict"]["a"]

    with pytest.raises(ValueError, match=r"plain.pth states no hash.*#sha256=HASH"):
        load(f"{url}/plain.pth")
    assert load(f"{url}/plain.pth#sha256={digest}") == 1
    assert load(f"{url}/named-{digest[:8]}.pth") == 1
    with pytest.raises(ValueError, match="cannot be fetched: .*hash"):
        load(f"{url}/plain.pth#sha256={'0' * 64}")
    with pytest.raises(ValueError, match="cannot be fetched: .*404"):
        load(f"{url}/absent.pth#sha256={digest}")
    # What was fetched once is compared again, and fetched again if it was changed.
    (cached,) = (tmp_path / "hub" / "checkpoints").glob("*-plain.pth")
    cached.write_bytes(b"changed")
    assert load(f"{url}/plain.pth#sha256={digest}") == 1


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("s3://bucket/a.pth", "cannot be checked against a hash"),
        ("openmmlab:s3://bucket/a.pth", "cannot be checked against a hash"),
        ("pavi://a", "cannot be checked against a hash"),
        ("open-mmlab://no/such", "open-mmlab has no model 'no/such'"),
        ("mmcls://none", "mmcls has no model 'none'"),
        ("ftp://x/a.pth", "cannot be checked against a hash"),
    ],
)
def test_other_references(reference: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        theirs._load_checkpoint(reference)
    assert "\n" not in str(error.value)


def test_every_name_of_mmengine_leads_to_a_hash() -> None:
    """Or is no URL; then the file is looked for on this machine."""
    tables = [theirs.get_external_models(), theirs.get_mmcls_models()]
    if importlib.util.find_spec("torchvision"):
        tables.append(theirs.get_torchvision_models())
    urls = [str(url) for table in tables for url in table.values() if "://" in str(url)]
    without = []
    for url in urls:
        try:
            safe_loading.check_reference(url)
        except ValueError:
            without.append(url)
    assert len(urls) > 100
    assert all("/mmediting/" in url for url in without), "not of a detector"


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr(safe_loading, "load_from_url", lambda url, device: seen.append(url) or {})
    safe_loading.load_from_list("open-mmlab://detectron2/resnet50_caffe")
    safe_loading.load_from_list("mmcls://resnet50_v1d")
    assert [bool(safe_loading.url_hash(url)) for url in seen] == [True] * 2
    if importlib.util.find_spec("torchvision"):
        safe_loading.load_from_list("torchvision://resnet50")
        assert "resnet50-" in seen[-1]
        with pytest.raises(ValueError, match="torchvision has no model 'no_such_model'"):
            safe_loading.load_from_list("torchvision://no_such_model")
    else:
        with pytest.raises(ValueError, match="needs the package torchvision"):
            safe_loading.load_from_list("torchvision://resnet50")
