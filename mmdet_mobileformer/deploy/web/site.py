"""The page as a folder of plain files that any web server can show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ...runtime.detector import default_model
from ...runtime.engine import load_engine
from ...runtime.metadata import ModelInfo
from .engine_files import VERSION, engine_files

PAGE = Path(__file__).with_name("page")


def describe(model: str | Path) -> dict[str, object]:
    """What the page has to know of a model, since onnxruntime-web does not show a file's metadata.

    Args:
        model: An ONNX file of tools/deployment/export.py.

    Returns:
        The file's own description (see :mod:`mmdet_mobileformer.deploy`), with ``name``, ``bytes``
        and ``size``, the height and width that it was exported for, or None.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If ONNX Runtime is not installed.
        ValueError: If it is no such model.
    """
    path = Path(model)
    if path.suffix != ".onnx":
        raise ValueError(f"model {model} must be an .onnx file: browsers run nothing else")
    engine = load_engine(path, "onnxruntime")
    info = ModelInfo.from_json(engine.description, str(model))
    if engine.batch not in (None, 1):
        raise ValueError(f"model {model} takes {engine.batch} pictures at a time: export it for one")
    if info.pad_divisor != 1:
        raise ValueError(f"model {model} pads its input, which the page does not: export it without")
    about: dict[str, object] = json.loads(info.to_json())
    size = None if engine.size is None else list(engine.size)
    return {**about, "name": path.name, "bytes": path.stat().st_size, "size": size}


def write_site(
    out: str | Path, model: str | Path | None = None, package: str | Path | None = None
) -> dict[str, object]:
    """Write the folder: page, model and onnxruntime-web.

    Args:
        out: A folder that is new or empty.
        model: An ONNX file; None takes the shipped model.
        package: As :func:`mmdet_mobileformer.deploy.web.engine_files.engine_files` takes it.

    Returns:
        The model's description, as :func:`describe` gives it.

    Raises:
        FileExistsError: If ``out`` is a file or holds something.
        FileNotFoundError, ImportError, ValueError: As :func:`describe` and :func:`engine_files`.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{out} exists already: give a new folder")
    file = default_model() if model is None else Path(model)
    about = {**describe(file), "engine": f"onnxruntime-web {VERSION}"}
    engine = engine_files(package)
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    (folder / "engine").mkdir()
    for part in engine:
        shutil.copyfile(part, folder / "engine" / part.name)
    shutil.copyfile(file, folder / "model.onnx")
    text = json.dumps(about, indent=1, ensure_ascii=False)
    (folder / "model.json").write_text(text, encoding="utf-8")
    return about
