"""onnxruntime-web, the program that runs models in browsers: fetched once from npm, then kept."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

#: The version that the page is tested with, and the SHA-512 that npm states for it.
VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: Of its 130 MB the page needs these: the module with everything in it but the WebAssembly, and that.
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def cache_folder() -> Path:
    """Where the files are kept: below XDG_CACHE_HOME, by default ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "mmdet_mobileformer" / f"onnxruntime-web-{VERSION}"


def engine_files(package: str | Path | None = None) -> list[Path]:
    """The files of :data:`FILES`, fetched by npm if they are not kept yet.

    Args:
        package: ``onnxruntime-web-VERSION.tgz``, as ``npm pack`` makes it on another machine; None
            lets npm fetch it.

    Raises:
        FileNotFoundError: If npm is needed and not installed, or the package is not there.
        ValueError: If npm cannot fetch it, or it is another one.
    """
    kept = [cache_folder() / name for name in FILES]
    if package is None and all(file.is_file() for file in kept):
        return kept
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(package) if package is not None else _fetch(Path(folder))
        if not archive.is_file():
            raise FileNotFoundError(f"{archive} does not exist: make it by {_command()}")
        _check(archive)
        _keep(archive)
    return kept


def _command() -> str:
    return f"npm pack onnxruntime-web@{VERSION}"


def _fetch(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"npm is needed once, to fetch onnxruntime-web {VERSION}: install Node.js, or run "
            f"`{_command()}` elsewhere and give the file by --onnxruntime-web"
        )
    command = [npm, *_command().split()[1:], "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    found = list(folder.glob("*.tgz"))
    if done.returncode != 0 or not found:
        lines = (done.stderr or done.stdout).strip().splitlines()
        said = lines[-1] if lines else "no reason given"
        raise ValueError(f"`{_command()}` failed ({said}): is the network there?")
    return found[0]


def _check(archive: Path) -> None:
    digest = hashlib.sha512(archive.read_bytes()).digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != INTEGRITY:
        raise ValueError(
            f"{archive} is not onnxruntime-web {VERSION} as npm publishes it: make it by `{_command()}`"
        )


def _keep(archive: Path) -> None:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as content:
        for name in FILES:
            member = content.extractfile(f"package/dist/{name}")
            if member is None:
                raise ValueError(f"{archive} lacks {name}")
            # Never half a file under its name, also when several processes do this at once.
            handle, part = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as target:
                shutil.copyfileobj(member, target)
            os.replace(part, folder / name)
