"""Wheel and sdist: what is in them, and that an installed wheel detects on a picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmdet_mobileformer import __version__
from mmdet_mobileformer.models import DETECTORS, config_path

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
#: What a build reads; nothing is built inside the checkout.
SOURCES = (
    *("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"),
    *("Makefile", "model-index.yml", "configs", "tools", "tests", "mmdet_mobileformer", ".ci", "docs"),
)


def run(*command: object, cwd: Path, **env: str) -> str:
    """Run a command away from the checkout; its output, or the end of it in the failure."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def sdist(folder: Path) -> Path:
    """The sdist of a copy of the checkout."""
    copy = folder / "checkout"
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        elif (ROOT / name).is_file():
            shutil.copy2(ROOT / name, copy / name)
    code = "from setuptools import build_meta as b; import sys; b.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=copy)
    return folder / f"mmdet_mobileformer-{__version__}.tar.gz"


@pytest.fixture(scope="module")
def wheel(sdist: Path, folder: Path) -> Path:
    """The wheel made of the sdist, so that the sdist has to be complete."""
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", sdist, *options, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


def shipped(*folders: str) -> set[str]:
    """Files of the checkout that belong into a package, relative to its root."""
    files = [file for name in folders for file in (ROOT / name).rglob("*") if file.is_file()]
    return {f.relative_to(ROOT).as_posix() for f in files if "__pycache__" not in f.parts}


def test_the_wheel_carries_configs_and_tools_for_mim(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        scripts = [i for i in archive.infolist() if i.filename.endswith(".sh")]
    mim = "mmdet_mobileformer/.mim/"
    inside = {name[len(mim) :] for name in names if name.startswith(mim)}
    assert inside == shipped("configs", "tools") | {"model-index.yml"}
    assert "configs/metafile.yml" in inside
    assert shipped("mmdet_mobileformer") <= names, "the package itself, py.typed and data included"
    top = {name.split("/")[0] for name in names}
    assert top == {"mmdet_mobileformer", f"mmdet_mobileformer-{__version__}.dist-info"}
    assert scripts and all((script.external_attr >> 16) & 0o100 for script in scripts)
    for name in names:
        assert "__pycache__" not in name and not name.endswith((".pyc", ".pth", ".safetensors.tmp"))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_never_pulls_in_a_stack(wheel: Path) -> None:
    """Neither torch nor mm*: the user's own must not be replaced, and OneDL's have other names."""
    found = metadata(wheel)
    required = [re.split(r"[<>=; ]", line)[0] for line in found.get_all("Requires-Dist", [])]
    assert {"numpy", "safetensors", "pytest"} <= set(required)
    stack = ("torch", "torchvision", "mmengine", "mmcv", "mmdet", "openmim")
    assert not [r for r in required if r.lower().startswith(("onedl", *stack))]
    assert {"test", "dev"} <= set(found.get_all("Provides-Extra", []))
    assert found["License"] == "Apache-2.0" or found["License-Expression"] == "Apache-2.0"
    assert "E2E-MF" in str(found.get_payload())


def test_the_sdist_is_the_repository(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = shipped("configs", "tools", "tests", "mmdet_mobileformer", ".ci")
    assert expected | {"Makefile", "LICENSE", "model-index.yml"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


SMOKE = """
import json, sys
from pathlib import Path

import mmdet_mobileformer
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmdet_mobileformer.models import config_names, config_path

config, weights, picture = config_path(sys.argv[1]), *sys.argv[2:]
inferencer = DetInferencer(config, weights, device='cpu', show_progress=False)
result = inferencer(picture, out_dir='out')['predictions'][0]
print(json.dumps(dict(
    package=mmdet_mobileformer.__file__, config=config, names=config_names(),
    scores=len(result['scores']), boxes=result['bboxes'],
    painted=[str(file) for file in Path('out').rglob('*.png')],
)))
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, folder: Path) -> Path:
    """The interpreter of a virtual environment with the wheel, beside the stack of this one."""
    home = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=folder)
    python = home / "bin" / "python"
    # Before the stack is visible: pip would find this package there, and leave the wheel out.
    options = ("--no-deps", "--no-index", "--no-warn-script-location")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    (packages,) = home.glob("lib/python*/site-packages")
    # A plain path in a .pth file joins sys.path, and the .pth files of that folder are not read:
    # the editable installation of this checkout stays invisible.
    stack = [*site.getsitepackages(), *(p for p in sys.path if p.endswith("-packages"))]
    (packages / "stack.pth").write_text("\n".join(dict.fromkeys(stack)) + "\n")
    return python


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    """Random weights of the 26m edge detector, as a training saves them."""
    registry = pytest.importorskip("mmdet.registry")
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    model = registry.MODELS.build(Config.fromfile(config_path("e2emf_26m_coco")).model)
    meta = dict(dataset_meta=dict(classes=tuple(map(str, range(80)))))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / "weights.pth")
    return folder / "weights.pth"


def test_an_installed_wheel_detects_on_a_picture(
    installed: Path, weights: Path, folder: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "noise.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (97, 130, 3), dtype=np.uint8))
    (tmp_path / "smoke.py").write_text(SMOKE)
    printed = run(installed, "smoke.py", "e2emf_26m_coco", weights, picture, cwd=tmp_path)
    result = json.loads(printed.splitlines()[-1])
    assert Path(result["package"]).is_relative_to(folder / "venv")
    assert Path(result["config"]).is_relative_to(folder / "venv")
    assert {d.config for d in DETECTORS} <= set(result["names"])
    assert result["scores"] == 100 and np.isfinite(result["boxes"]).all()
    assert len(result["painted"]) == 1


def test_the_tools_of_an_installed_wheel_run(installed: Path, tmp_path: Path) -> None:
    (mim,) = installed.parents[1].glob("lib/python*/site-packages/mmdet_mobileformer/.mim")
    config = mim / "configs" / "e2emf_26m_coco.py"
    tool = mim / "tools" / "analysis_tools" / "get_flops.py"
    printed = run(installed, tool, config, "--shape", 320, 320, cwd=tmp_path)
    (row,) = [d for d in DETECTORS if d.config == "e2emf_26m_coco"]
    assert f"params  {row.params:.3f} M" in printed and f"MAdds   {row.madds:.3f} G" in printed
