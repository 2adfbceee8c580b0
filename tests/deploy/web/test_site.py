"""The page's folder and its server, without a browser."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

sys.path.insert(0, str(Path(__file__).parent))
from small_model import CLASSES, info, write_model  # noqa: E402

from mmdet_mobileformer.deploy.web import engine_files as engine  # noqa: E402
from mmdet_mobileformer.deploy.web.server import make_server  # noqa: E402
from mmdet_mobileformer.deploy.web.site import PAGE, describe, write_site  # noqa: E402


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of npm's form with our own contents, which passes for the pinned one."""
    file = tmp_path / "package.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name in engine.FILES:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    import base64

    digest = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    monkeypatch.setattr(engine, "INTEGRITY", f"sha512-{digest}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file


def test_folder_has_page_model_and_engine(package: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "small.onnx")
    about = write_site(tmp_path / "site", model, package)
    written = json.loads((tmp_path / "site/model.json").read_text())
    assert written == about
    assert written["classes"] == list(CLASSES) and written["size"] is None
    assert written["name"] == "small.onnx" and written["bytes"] == model.stat().st_size
    assert (tmp_path / "site/model.onnx").read_bytes() == model.read_bytes()
    for page in PAGE.iterdir():
        assert (tmp_path / "site" / page.name).read_bytes() == page.read_bytes()
    for name in engine.FILES:
        assert (tmp_path / "site/engine" / name).read_text() == name
    # Kept: the second time nothing is fetched.
    package.unlink()
    assert all(file.is_file() for file in engine.engine_files())
    with pytest.raises(FileExistsError, match="exists already"):
        write_site(tmp_path / "site", model)


def test_another_package_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not onnxruntime-web"):
        engine.engine_files(package)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="npm is needed once"):
        engine.engine_files()


def test_wrong_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx does not exist"):
        describe(tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match="must be an .onnx file"):
        describe(tmp_path / "model.xml")
    with pytest.raises(ValueError, match="takes 4 pictures at a time"):
        describe(write_model(tmp_path / "four.onnx", batch=4))
    with pytest.raises(ValueError, match="outputs"):
        describe(write_model(tmp_path / "other.onnx", outputs=("a", "b", "c")))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"damaged\.onnx cannot be loaded"):
        describe(damaged)
    bare = describe(write_model(tmp_path / "raw.onnx", info(normalized_inside=False)))
    assert bare["input"]["normalized_inside"] is False  # type: ignore[index]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "engine").mkdir()
    for name in ("index.html", "app.js", "engine/a.mjs", "engine/a.wasm", "model.onnx"):
        (tmp_path / name).write_text(name)
    server = make_server(tmp_path, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/engine/a.mjs", "text/javascript"),
        ("/engine/a.wasm", "application/wasm"),
    ],
)
def test_headers_for_threads(address: str, path: str, kind: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address + path) as response:
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert response.headers.get_content_type() == kind


def test_port_in_use_is_one_sentence(address: str, tmp_path: Path) -> None:
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(ValueError, match=f"no server can listen at 127.0.0.1:{port}"):
        make_server(tmp_path, port=port)
