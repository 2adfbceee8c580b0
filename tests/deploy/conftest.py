"""One exported file for all tests here, since tracing takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folder, config, checkpoint, model, comparisons and printed text of a tiny detector."""
    for name in ("mmdet.models", "onnx", "onnxruntime"):
        pytest.importorskip(name)
    from tiny_detector import SIGMOID, write

    from mmdet_mobileformer.deploy.export import export

    folder = tmp_path_factory.mktemp("export")
    config, checkpoint = write(folder, SIGMOID)
    lines: list[str] = []
    rows = export(str(config), str(checkpoint), folder / "tiny.onnx", say=lines.append)
    return dict(
        folder=folder, config=config, checkpoint=checkpoint, model=folder / "tiny.onnx",
        rows=rows, text="\n".join(lines),
    )  # fmt: skip
