"""From a checkpoint to an ONNX file and OpenVINO's IR, compared with PyTorch before they appear."""

from __future__ import annotations

import inspect
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..runtime.engine import INPUT, OUTPUTS, load_engine
from ..runtime.metadata import KEY, ModelInfo
from ..runtime.picture import MIN_SIZE
from .graph import DetectorGraph
from .load import describe, load_detector
from .parity import Parity, compare, table

#: ONNX's operator set: the first with LayerNormalization, and old enough for the runtimes of browsers.
OPSET = 17
#: Batch, height, width of the comparison with PyTorch beside the config's own size: odd sides, two
#: pictures, the smallest sides.
SHAPES = ((1, 163, 227), (2, 128, 96), (2, 101, 135), (1, MIN_SIZE, MIN_SIZE + 13))


def export(
    config: str,
    checkpoint: str,
    out: str | Path,
    *,
    openvino: bool = False,
    size: tuple[int, int] | None = None,
    normalize: bool = True,
    options: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[Parity]:
    """Write a detector as ONNX, described in :mod:`mmdet_mobileformer.deploy`.

    The files appear under their names only after they found what PyTorch finds.

    Args:
        config: A config file of a detector with an E2EMFHead.
        checkpoint: Its weights.
        out: The new ``.onnx`` file.
        openvino: Also write OpenVINO's IR beside it (``.xml`` and ``.bin``).
        size: Height and width in px of a file for this one size and one picture at a time; None
            for any size and number.
        normalize: Apply mean and standard deviation inside the graph.
        options: Overrides of the config.
        say: Is given the lines to print.

    Returns:
        The comparisons.

    Raises:
        FileExistsError: If an output is there already.
        FileNotFoundError: If an input is not.
        ImportError: If a package is missing.
        ValueError: If the input is bad, or the file does not find what PyTorch finds.
    """
    out = Path(out)
    check_outputs(out, openvino)
    check_packages(openvino)
    if size is not None and min(size) < MIN_SIZE:
        raise ValueError(f"--size {size[0]} {size[1]}: a side has {MIN_SIZE} px at least")
    cfg, detector, meta = load_detector(config, checkpoint, options)
    # The folded form is made for known sizes: where they are free, OpenVINO takes longer for it than for
    # the plain one.
    graph = DetectorGraph(detector, normalize, fold=size is not None).eval()
    info = describe(cfg, detector, meta, normalize, size)
    shapes = parity_shapes(info, size)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        file = Path(folder) / out.name
        write_onnx(graph, info, file, size)
        files = [file]
        if openvino:
            files += write_openvino(file, info)
        rows: list[Parity] = []
        for model in files:
            if model.suffix != ".bin":
                rows += compare(detector, load_engine(model), info, shapes)
        say(table(rows))
        check_parity(rows)
        for made in files:
            os.replace(made, out.with_suffix(made.suffix))
    for made in files:
        written = out.with_suffix(made.suffix)
        say(f"{written}: {written.stat().st_size / 1e6:.2f} MB")
    return rows


def check_outputs(out: Path, openvino: bool) -> None:
    """Refuse a name that is no .onnx, and files that are there."""
    if out.suffix != ".onnx":
        raise ValueError(f"--out {out} must end in .onnx")
    for file in (out, *((out.with_suffix(".xml"), out.with_suffix(".bin")) if openvino else ())):
        if file.exists():
            raise FileExistsError(f"{file} exists already: give another --out")


def check_packages(openvino: bool) -> None:
    """Name what is not installed before any work."""
    needed = ["onnx", "onnxruntime", *(["openvino"] if openvino else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ImportError(f"exporting needs {' '.join(missing)}: pip install {' '.join(missing)}")


def parity_shapes(
    info: ModelInfo, size: tuple[int, int] | None
) -> Sequence[tuple[int, int, int]]:
    """Inputs of the comparison: the config's largest, and :data:`SHAPES` unless the size is fixed."""
    if size is not None:
        return ((1, *size),)
    width, height = info.scale
    largest = (min(width, height), max(width, height)) if info.keep_ratio else (height, width)
    return ((1, *largest), *SHAPES)


def write_onnx(
    graph: DetectorGraph, info: ModelInfo, file: Path, size: tuple[int, int] | None
) -> None:
    """Trace the graph, fold what is constant, add the description."""
    import onnx

    # Two odd pictures: no size in the trace equals another, or 1, by chance.
    example = torch.rand(1, 3, *size) if size is not None else torch.rand(2, 3, 197, 263)
    example = example * 255 if info.normalized_inside else example * 2 - 1
    axes = {0: "batch", 2: "height", 3: "width"}
    results = {name: {0: "batch"} for name in OUTPUTS}
    arguments: dict[str, Any] = {} if size is not None else {"dynamic_axes": {INPUT: axes, **results}}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        # The exporter by torch.export takes minutes for this model, most of them on proofs about its
        # sizes; the tracer takes seconds.
        arguments["dynamo"] = False
    raw = file.with_suffix(".raw.onnx")
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of its own age, and of comparisons of sizes, which the parity check covers.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, (example,), str(raw), opset_version=OPSET, input_names=[INPUT],
            output_names=list(OUTPUTS), **arguments,
        )  # fmt: skip
    _fold(raw, file)
    raw.unlink()
    model = onnx.load(str(file))
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.helper.set_model_props(model, {KEY: info.to_json()})
    model.producer_name, model.producer_version = "mmdet_mobileformer", info.version
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _fold(raw: Path, file: Path) -> None:
    """Constants and repeated parts of the trace, by ONNX Runtime's rewriting within ONNX itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])


def write_openvino(file: Path, info: ModelInfo) -> list[Path]:
    """OpenVINO's IR of an ONNX file beside it, with the same description; returns its two files."""
    import openvino

    model = openvino.convert_model(str(file))
    model.set_rt_info(info.to_json(), [KEY])
    xml = file.with_suffix(".xml")
    # float32: half precision moves boxes.
    openvino.save_model(model, str(xml), compress_to_fp16=False)
    return [xml, file.with_suffix(".bin")]


def check_parity(rows: Sequence[Parity]) -> None:
    """Refuse a file that finds something else than PyTorch.

    Raises:
        ValueError: Naming the engine and size.
    """
    for row in rows:
        if row.missing or not np.isfinite([row.score, row.box]).all():
            size = " x ".join(str(side) for side in row.shape)
            raise ValueError(
                f"{row.engine} does not find what PyTorch finds at {size}: {row.missing} of "
                f"{row.detections} detections are missing or elsewhere, so no file is written"
            )
